"""Measure what the disposable process of each source costs."""
