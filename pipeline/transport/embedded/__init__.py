"""The embedded engine of ``pipeline.transport.protocol``: SQLite, one machine, no server."""
