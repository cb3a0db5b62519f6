"""What runs inside a child process: loaded models, and the fallback steps when memory runs out."""
