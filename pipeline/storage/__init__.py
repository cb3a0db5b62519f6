"""Object stores behind one protocol: a local folder with signed links, or any S3-compatible server."""

from pipeline.storage.protocol import ObjectStore, StoredObject

__all__ = ["ObjectStore", "StoredObject"]
