"""Measures the API while clients keep many connections open, send or read slowly, and guess passwords."""
