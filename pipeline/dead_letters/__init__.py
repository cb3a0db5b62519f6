"""The operator's commands for dead letters: ``python -m pipeline.dead_letters --help``.

The dead-letter topic is append-only. Replaying or dropping a letter appends a mark that refers to it. The record
therefore works on every broker, survives every process, and shows earlier operators' actions.
"""
