"""The demo: a model, a song with known stems, and the score of a separation.

Nothing here is downloaded: the model is built from formulas and the song is synthesised, so that a complete job can
be shown and measured on a machine without access to model hosts.
"""
