"""Buckets for tests on a real S3 server."""

from __future__ import annotations

from uuid import uuid4

from devstack.s3 import S3Server
from pipeline.storage.s3.store import S3Options, S3Store


def new_bucket(server: S3Server) -> S3Options:
    """Create a bucket for one test; return the options to open it."""
    options = S3Options(
        bucket=f"test-{uuid4().hex[:12]}",
        region=server.region,
        endpoint_url=server.endpoint_url,
        access_key_id=server.access_key,
        secret_access_key=server.secret_key,
    )
    S3Store(options).ensure_bucket()
    return options
