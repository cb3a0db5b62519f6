"""`make bench-separate`: the separation engine compared with audio-separator, whose models and loaders it uses.

names         names of the contenders
contenders    this engine and audio-separator, in process
worker        a process with one contender and warm models
workers       the benchmark's side of such processes
rows          songs, models, and the runs, in alternating order
threads       the engine alone: threads of one child, or several children
report        Markdown
"""
