"""The part of a child process that separates: loaded models, out-of-memory fallback and stem files."""
