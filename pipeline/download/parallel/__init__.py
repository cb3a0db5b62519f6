"""One file over several connections."""
