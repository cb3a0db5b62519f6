"""What an operator does with messages that nobody could work on: ``python -m pipeline.dead_letters --help``.

The topic is only ever appended to: that a letter was replayed or dropped is a message of the same topic, a mark, which
names the letter. So the record works on every broker, outlives every process, and shows who has been at work before.
"""
