"""One file in parts: several connections, which part is whose, what is left for the next time, how many help."""
