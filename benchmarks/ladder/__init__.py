"""What it costs to separate a song with less memory: each rung of ``processor.ladder`` against the full result."""
