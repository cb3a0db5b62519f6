"""Reads the content of the store directly, without the proxy."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import boto3
from botocore.config import Config

from devstack.s3 import S3Server
from tests.chaos.audit.ledger import ObjectFound
from tests.chaos.system.settings import BUCKET

_CHUNK = 1024 * 1024


class StoreView:
    """A view of the bucket of a running server."""

    def __init__(self, server: S3Server) -> None:
        self._server = server

    def make_bucket(self) -> None:
        """Create the bucket."""
        self._client().create_bucket(Bucket=BUCKET)

    def all_keys(self) -> list[str]:
        """Return the keys of all objects."""
        return [item["Key"] for item in self._items(self._client())]

    def objects(self) -> Iterator[ObjectFound]:
        """Yield all objects, with the digest of their content."""
        client = self._client()
        for item in self._items(client):
            body = client.get_object(Bucket=BUCKET, Key=item["Key"])["Body"]
            digest = hashlib.sha256()
            size = 0
            for chunk in body.iter_chunks(_CHUNK):
                digest.update(chunk)
                size += len(chunk)
            yield ObjectFound(key=item["Key"], sha256=digest.hexdigest(), bytes=size)

    def _items(self, client: Any) -> Iterator[dict[str, Any]]:
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET):
            yield from page.get("Contents", ())

    def _client(self) -> Any:
        return boto3.client(
            "s3",
            endpoint_url=self._server.endpoint_url,
            region_name=self._server.region,
            aws_access_key_id=self._server.access_key,
            aws_secret_access_key=self._server.secret_key,
            config=Config(proxies={}, retries={"total_max_attempts": 3}),
        )
