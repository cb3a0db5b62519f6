"""Local server processes that end with their parent."""
