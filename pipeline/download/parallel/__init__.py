"""One file over several connections, and resuming an interrupted download."""
