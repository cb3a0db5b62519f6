"""What it costs to separate a song with less memory: each rung of ``processor.engine.oom_fallback`` against the full result."""
