"""The settings of all services: one frozen model per concern, each validated from a mapping of variables.

Nothing here reads the environment or a file. ``config.load`` does that once, when a process starts.
"""
