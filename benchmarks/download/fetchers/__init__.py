"""Clients that are libraries: each a small program that fetches one URL into one file and tells its figures."""
