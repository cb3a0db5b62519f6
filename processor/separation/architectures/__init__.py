"""One separator for each architecture of models."""
