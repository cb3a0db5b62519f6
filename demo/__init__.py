"""The demo's own model, its own song with known stems, and the score that compares the two.

Nothing here is downloaded: the model is built from formulas and the song is synthesised, so
the whole way of a job can be shown, and measured, on a machine that reaches no model host.
"""
