"""`make bench-separate`: the separation engine beside audio-separator, which it takes the models and loaders of.

names         of the contenders
contenders    who is measured: this engine, stock in process, the command
worker        a process with one of them and warm models
workers       such processes as the benchmark holds them
rows          songs, models, and the runs, in alternating order
threads       the engine alone: threads of one child, or several children
report        Markdown
"""
