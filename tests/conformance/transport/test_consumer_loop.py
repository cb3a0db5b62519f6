"""The consumer loop on every engine: what it settles, what it tries again, what it puts aside."""
