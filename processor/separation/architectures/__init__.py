"""One separator for each architecture."""
