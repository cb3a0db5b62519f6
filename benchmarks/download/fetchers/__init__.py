"""Clients that are libraries: each script downloads one URL into one file and prints its figures."""
