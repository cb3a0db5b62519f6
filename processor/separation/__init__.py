"""Separation of a decoded mixture into stems, by a model of any architecture."""
