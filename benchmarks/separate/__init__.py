"""`make bench-separate`: the separation engine beside audio-separator, which it takes the models and loaders of.

contenders    who is measured: this engine, stock in process, the command
worker        a process with one of them and a warm model
rows          songs, models, and the runs, in alternating order
report        Markdown
"""
