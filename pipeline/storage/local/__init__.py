"""The local engine of ``pipeline.storage.protocol``: folders on this machine."""
