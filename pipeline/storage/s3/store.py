"""The S3 engine, on boto3: for AWS and other S3-compatible servers."""

from __future__ import annotations

import tempfile
import time
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from boto3.s3.transfer import TransferConfig
from botocore.exceptions import ClientError

from pipeline.errors import ErrorCode, InfrastructureError, PermanentError
from pipeline.files import local_errors, replacing
from pipeline.storage.object_keys import check_key, check_public_key, is_private
from pipeline.storage.protocol import ObjectStore, StoredObject
from pipeline.storage.retention import Retention
from pipeline.storage.s3.check import StoreCheck
from pipeline.storage.s3.client import DEFAULT_REGION, AddressingStyle, open_client, open_session
from pipeline.storage.s3.errors import CONDITION_FAILED, error_code, s3_errors
from pipeline.storage.s3.lifecycle import LifecycleResult, private_rules, set_rules, stem_rules

MIB, GIB = 1024**2, 1024**3

#: boto3 reads the parts from the file, so the memory of an upload does not grow with the file.
_TRANSFER = TransferConfig(
    multipart_threshold=16 * MIB,
    multipart_chunksize=16 * MIB,
    max_concurrency=4,
    preferred_transfer_client="classic",
)
#: Size of the largest object that S3 copies in one request, bytes; boto3 copies larger ones in parts.
_MAX_SINGLE_COPY = 5 * GIB
#: Maximum number of attempts of ``put_new`` when other writes or deletions interfere.
_MAX_PUT_RACES = 5
#: Time for which a complete check is valid, s. In between, checks only write, read and delete an object.
_FULL_CHECK_INTERVAL = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Options:
    """The bucket's location and credentials.

    Without an ``endpoint_url`` the server is AWS. Without keys boto3 uses its default credential chain (role, profile).
    """

    bucket: str
    private_bucket: str | None = None
    """The bucket of the objects that are for the services alone; None: the same."""
    region: str | None = None
    """None: the region that boto3 finds."""
    endpoint_url: str | None = None
    addressing_style: AddressingStyle = "auto"
    access_key_id: str | None = None
    secret_access_key: str | None = field(default=None, repr=False)
    session_token: str | None = field(default=None, repr=False)
    """For temporary keys."""
    public_domain: str | None = None
    """Links are ``public_domain/key``; None: presigned links."""
    stems: bool = True
    """False: the hand-off store, which has no links and no outcomes."""
    check_links: bool = True
    """Whether ``check`` fetches a link."""
    url_ttl: int = 86_400
    """Lifetime of presigned links, s."""


class S3Store:
    """An ``ObjectStore`` (see ``pipeline.storage.protocol``) in an S3 bucket. Thread-safe.

    A process that is killed during the upload of a large object leaves invisible parts; ``set_lifecycle`` lets the
    server remove them.
    """

    def __init__(self, options: S3Options) -> None:
        self._options = options
        self._public_domain = options.public_domain.rstrip("/") if options.public_domain else None
        self._private_bucket = options.private_bucket or options.bucket
        with s3_errors():
            # Threads may share clients, but not sessions: this session creates two clients and is discarded.
            session = open_session(
                options.access_key_id, options.secret_access_key, options.session_token, options.region
            )
            self._client = self._open_client(session, attempts=3, timeouts=(5.0, 30.0))
            # ``check`` must report an outage quickly, so its client has short timeouts and no retries.
            check_client = self._open_client(session, attempts=1, timeouts=(2.0, 5.0))
        self._check = StoreCheck(
            check_client,
            bucket=options.bucket,
            private_bucket=self._private_bucket,
            link=self.url if options.check_links else None,
            public_domain=self._public_domain if options.check_links else None,
        )
        self._verified_until = 0.0

    def _open_client(self, session: Any, *, attempts: int, timeouts: tuple[float, float]) -> Any:
        options = self._options
        return open_client(
            session,
            options.endpoint_url,
            addressing_style=options.addressing_style,
            attempts=attempts,
            timeouts=timeouts,
        )

    def put(self, key: str, source: Path, *, content_type: str) -> StoredObject:
        """Upload the file; large files in parts."""
        location = self._locate(key)
        with s3_errors():
            size = source.stat().st_size
            extra = {"ContentType": content_type}
            self._client.upload_file(**location, Filename=str(source), ExtraArgs=extra, Config=_TRANSFER)
        return StoredObject(key, size)

    def get(self, key: str, target: Path) -> None:
        """Download the object to ``target``; large objects in parts."""
        location = self._locate(key)
        try:
            with s3_errors(), replacing(target) as partial:
                self._client.download_file(**location, Filename=str(partial), Config=_TRANSFER)
        except PermanentError:
            # boto3 may start a download with a HEAD request, whose 404 may mean a missing bucket.
            self._require_bucket(key)
            raise

    def put_new(self, key: str, content: bytes, *, content_type: str) -> bytes:
        """Store ``content`` unless an object exists; the server decides which writer is first (``If-None-Match``).

        A server that refuses conditional writes is an InfrastructureError; ``check`` detects one that ignores them.
        """
        request = {**self._locate(key), "Body": content, "ContentType": content_type}
        for _ in range(_MAX_PUT_RACES):
            with suppress(PermanentError):
                return self.read(key)
            with s3_errors():
                try:
                    self._client.put_object(**request, IfNoneMatch="*")
                except ClientError as error:
                    if error_code(error) not in CONDITION_FAILED:
                        raise
        raise InfrastructureError(
            "an object of the S3 store is created and deleted repeatedly", code=ErrorCode.STORAGE_UNAVAILABLE
        )

    def read(self, key: str) -> bytes:
        """Download the object into memory."""
        location = self._locate(key)
        # ``closing``: as a context manager, a body of boto3 yields the raw stream, whose exceptions are not translated.
        with s3_errors(), closing(self._client.get_object(**location)["Body"]) as body:
            return bytes(body.read())

    def stat(self, key: str) -> StoredObject | None:
        """Request the object's size; None if the object is missing from an existing bucket."""
        location = self._locate(key)
        try:
            with s3_errors():
                head = self._client.head_object(**location)
        except PermanentError:
            self._require_bucket(key)
            return None
        return StoredObject(key, int(head["ContentLength"]))

    def copy_from(self, other: ObjectStore, source_key: str, key: str, *, content_type: str) -> StoredObject:
        """Copy an object; within one S3 server and account the server copies it, otherwise through a local file."""
        target, options = self._locate(key), self._options
        # The server can copy between buckets of the same server that the same account may access.
        if not isinstance(other, S3Store) or (options.endpoint_url, options.access_key_id) != (
            other._options.endpoint_url,
            other._options.access_key_id,
        ):
            with local_errors(), tempfile.TemporaryDirectory(prefix="copy-") as folder:
                draft = Path(folder, "object")
                other.get(source_key, draft)
                return self.put(key, draft, content_type=content_type)
        found = other.stat(source_key)
        if found is None:
            raise PermanentError("there is no such object in the store", code=ErrorCode.OBJECT_MISSING)
        source = other._locate(source_key)
        extra = {"ContentType": content_type, "MetadataDirective": "REPLACE"}
        with s3_errors():
            if found.bytes <= _MAX_SINGLE_COPY:
                self._client.copy_object(**target, CopySource=source, **extra)
            else:
                self._client.copy(source, **target, ExtraArgs=extra, Config=_TRANSFER)
        return StoredObject(key, found.bytes)

    def url(self, key: str) -> str:
        """Return a link on the public domain, or a presigned link."""
        check_public_key(key)
        if self._public_domain is not None:
            return f"{self._public_domain}/{key}"
        with s3_errors():
            return str(
                self._client.generate_presigned_url(
                    "get_object", Params=self._locate(key), ExpiresIn=self._options.url_ttl
                )
            )

    def delete(self, key: str) -> None:
        """Delete the object; S3 accepts a missing one."""
        location = self._locate(key)
        with s3_errors():
            self._client.delete_object(**location)

    def check(self) -> None:
        """Make every kind of call and fetch a link; for a while after a success, write, read and delete an object."""
        # A check that fails makes the next one complete.
        verified_until, self._verified_until = self._verified_until, 0.0
        with s3_errors():
            if time.monotonic() < verified_until:
                self._check.check_writing()
            else:
                self._check.check_all(stems=self._options.stems)
                verified_until = time.monotonic() + _FULL_CHECK_INTERVAL
        self._verified_until = verified_until

    def ensure_bucket(self) -> None:
        """Create the buckets that do not exist: for local development. Raises InfrastructureError."""
        region = self._client.meta.region_name
        # AWS rejects the name of its first region here.
        configuration = (
            {} if region == DEFAULT_REGION else {"CreateBucketConfiguration": {"LocationConstraint": region}}
        )
        exceptions = self._client.exceptions
        for bucket in {self._options.bucket, self._private_bucket}:
            with s3_errors():
                try:
                    self._client.create_bucket(Bucket=bucket, **configuration)
                except (exceptions.BucketAlreadyOwnedByYou, exceptions.BucketAlreadyExists):
                    self._client.head_bucket(Bucket=bucket)  # raises unless this account may access it

    def set_lifecycle(self, retention: Retention) -> dict[str, LifecycleResult]:
        """Set the lifecycle rules of the buckets; return the result for each. Raises InfrastructureError."""
        public, private = self._options.bucket, self._private_bucket
        folders, stems = private_rules(retention), stem_rules(retention)
        with s3_errors():
            if public == private:
                return {public: set_rules(self._client, public, folders, stems)}
            return {
                public: set_rules(self._client, public, [], stems),
                private: set_rules(self._client, private, folders, []),
            }

    def _locate(self, key: str) -> dict[str, str]:
        """Return the bucket and the key of an object. Raises PermanentError unless the key is well formed."""
        bucket = self._private_bucket if is_private(check_key(key)) else self._options.bucket
        return {"Bucket": bucket, "Key": key}

    def _require_bucket(self, key: str) -> None:
        """Raise InfrastructureError if the key's bucket is missing; the 404 of a HEAD request does not show this."""
        with s3_errors():
            self._client.list_objects_v2(Bucket=self._locate(key)["Bucket"], MaxKeys=1)
