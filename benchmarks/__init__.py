"""Reproducible benchmarks, one folder each. The services do not import this package."""
