"""The S3 engine of ``pipeline.storage.protocol``."""
