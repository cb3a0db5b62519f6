"""The two engines under test, and descriptions to open the same store again, in this process or another."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from devstack.s3 import S3Server
from pipeline.storage import ObjectStore
from pipeline.storage.local.store import LocalStore
from pipeline.storage.s3.store import S3Options, S3Store
from pipeline.storage.signed_links import LinkSigner

SIGNER = LinkSigner(b"0123456789abcdef0123456789abcdef")


@dataclass(frozen=True)
class StoreLocation:
    """The location of a store, serialisable so that another process can open it."""

    engine: str
    options: dict[str, Any]

    def open(self) -> ObjectStore:
        """Open a separate store object on the same objects."""
        if self.engine == "local":
            return LocalStore(Path(self.options["root"]), self.options["base_url"], SIGNER)
        return S3Store(S3Options(**self.options))

    def to_json(self) -> str:
        return json.dumps({"engine": self.engine, "options": self.options})

    @classmethod
    def from_json(cls, text: str) -> StoreLocation:
        return cls(**json.loads(text))


def local_location(root: Path, base_url: str = "http://127.0.0.1:8000") -> StoreLocation:
    return StoreLocation("local", {"root": str(root), "base_url": base_url})


def s3_location(server: S3Server) -> StoreLocation:
    """Create a bucket and return its location."""
    options: dict[str, Any] = {
        "bucket": f"stems-{uuid4().hex[:12]}",
        "region": server.region,
        "endpoint_url": server.endpoint_url,
        "access_key_id": server.access_key,
        "secret_access_key": server.secret_key,
    }
    S3Store(S3Options(**options)).ensure_bucket()
    return StoreLocation("s3", options)
