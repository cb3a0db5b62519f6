"""The benchmark's HTTP server, and its misbehaviour."""
