"""The S3 engine, on boto3: AWS and every server that speaks its protocol."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config

from pipeline.errors import ErrorCode, InfrastructureError, PermanentError
from pipeline.files import local_errors, replacing
from pipeline.storage.keys import check_key
from pipeline.storage.protocol import ObjectStore, StoredObject
from pipeline.storage.s3_errors import s3_errors

MIB, GIB = 1024**2, 1024**3

#: boto3 reads parts from the file itself, so an upload's memory does not grow with the file.
_TRANSFER = TransferConfig(
    multipart_threshold=16 * MIB,
    multipart_chunksize=16 * MIB,
    max_concurrency=4,
    preferred_transfer_client="classic",
)
#: The largest object that S3 copies in one request; boto3 copies larger ones in parts.
_SINGLE_COPY = 5 * GIB
#: Connections per client: the transfers of a few threads at once.
_POOL = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Options:
    """Where the bucket is and how to get in.

    Without an ``endpoint_url`` it is AWS; without keys, boto3 looks where it always looks (role, profile).
    """

    bucket: str
    region: str = "us-east-1"
    endpoint_url: str | None = None
    access_key_id: str | None = None
    secret_access_key: str | None = field(default=None, repr=False)
    public_domain: str | None = None
    """Links become ``public_domain/key``; without it they are presigned."""
    url_ttl: int = 86_400
    """How long presigned links are valid, s."""

    def may_copy_from(self, other: S3Options) -> bool:
        """Whether the server itself can copy objects of ``other``: the same server, seen by the same account."""
        return (self.endpoint_url, self.access_key_id) == (other.endpoint_url, other.access_key_id)


class S3Store:
    """See ``pipeline.storage.protocol.ObjectStore``. Thread-safe.

    A process that is killed while it uploads a large object leaves parts that nobody sees; a lifecycle rule of the
    bucket (AbortIncompleteMultipartUpload) removes them.
    """

    def __init__(self, options: S3Options) -> None:
        self._options = options
        self._bucket = options.bucket
        with s3_errors():
            # Clients may be shared by threads, sessions may not: this one makes two clients and is forgotten.
            session = boto3.session.Session(
                aws_access_key_id=options.access_key_id,
                aws_secret_access_key=options.secret_access_key,
                region_name=options.region,
            )
            self._client = _client(session, options, attempts=3, connect_timeout=5.0, read_timeout=30.0)
            # Who asks whether the store is there wants to know now.
            self._probe = _client(session, options, attempts=1, connect_timeout=2.0, read_timeout=5.0)

    def put(self, key: str, source: Path, *, content_type: str) -> StoredObject:
        check_key(key)
        with s3_errors():
            size = source.stat().st_size
            extra = {"ContentType": content_type}
            self._client.upload_file(str(source), self._bucket, key, ExtraArgs=extra, Config=_TRANSFER)
        return StoredObject(key, size)

    def get(self, key: str, target: Path) -> None:
        check_key(key)
        try:
            with s3_errors(), replacing(target) as partial:
                self._client.download_file(self._bucket, key, str(partial), Config=_TRANSFER)
        except PermanentError:
            # Whether a download begins with a HEAD request is up to boto3.
            self._require_bucket()
            raise

    def stat(self, key: str) -> StoredObject | None:
        check_key(key)
        try:
            with s3_errors():
                head = self._client.head_object(Bucket=self._bucket, Key=key)
        except PermanentError:
            self._require_bucket()
            return None
        return StoredObject(key, int(head["ContentLength"]))

    def copy_from(self, other: ObjectStore, source_key: str, key: str, *, content_type: str) -> StoredObject:
        check_key(key)
        if isinstance(other, S3Store) and self._options.may_copy_from(other._options):
            return self._copy_on_server(other, source_key, key, content_type)
        with local_errors(), tempfile.TemporaryDirectory(prefix="copy-") as folder:
            draft = Path(folder, "object")
            other.get(source_key, draft)
            return self.put(key, draft, content_type=content_type)

    def url(self, key: str) -> str:
        check_key(key)
        if self._options.public_domain is not None:
            return f"{self._options.public_domain.rstrip('/')}/{key}"
        with s3_errors():
            return str(
                self._client.generate_presigned_url(
                    "get_object", Params={"Bucket": self._bucket, "Key": key}, ExpiresIn=self._options.url_ttl
                )
            )

    def delete(self, key: str) -> None:
        check_key(key)
        with s3_errors():
            self._client.delete_object(Bucket=self._bucket, Key=key)

    def check(self) -> None:
        # A key of its own: checks may run at once, and none may find that another has just deleted its object.
        place = {"Bucket": self._bucket, "Key": f"check/{uuid4().hex}"}
        with s3_errors():
            self._probe.put_object(**place, Body=b"check")
            self._probe.get_object(**place)["Body"].close()
            self._probe.delete_object(**place)

    def ensure_bucket(self) -> None:
        """Make the bucket if it is not there: for local development. Raises InfrastructureError."""
        region = self._options.region
        # AWS takes the name of every region but its first.
        where = {} if region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": region}}
        with s3_errors():
            try:
                self._client.create_bucket(Bucket=self._bucket, **where)
            except (self._client.exceptions.BucketAlreadyOwnedByYou, self._client.exceptions.BucketAlreadyExists):
                self._client.head_bucket(Bucket=self._bucket)  # is it ours, too?

    def _copy_on_server(self, other: S3Store, source_key: str, key: str, content_type: str) -> StoredObject:
        found = other.stat(source_key)
        if found is None:
            raise PermanentError("there is no such object in the store", code=ErrorCode.OBJECT_MISSING)
        source = {"Bucket": other._bucket, "Key": source_key}
        described = {"ContentType": content_type, "MetadataDirective": "REPLACE"}
        with s3_errors():
            if found.bytes <= _SINGLE_COPY:
                self._client.copy_object(Bucket=self._bucket, Key=key, CopySource=source, **described)
            else:
                self._client.copy(source, self._bucket, key, ExtraArgs=described, Config=_TRANSFER)
        return StoredObject(key, found.bytes)

    def _require_bucket(self) -> None:
        """Tell a missing bucket from a missing object: to a HEAD request both are a bare 404."""
        with s3_errors():
            self._client.list_objects_v2(Bucket=self._bucket, MaxKeys=1)


def _client(
    session: boto3.session.Session,
    options: S3Options,
    *,
    attempts: int,
    connect_timeout: float,
    read_timeout: float,
) -> Any:
    # Servers other than AWS know the newer checksums in part or not at all; there, only what an operation demands.
    checksums: Literal["when_required", "when_supported"]
    checksums = "when_required" if options.endpoint_url else "when_supported"
    config = Config(
        signature_version="s3v4",
        s3={"addressing_style": "path" if options.endpoint_url else "auto"},
        retries={"mode": "standard", "total_max_attempts": attempts},
        connect_timeout=connect_timeout,
        read_timeout=read_timeout,
        max_pool_connections=_POOL,
        request_checksum_calculation=checksums,
        response_checksum_validation=checksums,
    )
    try:
        return session.client("s3", endpoint_url=options.endpoint_url, config=config)
    except ValueError:
        # Stricter than the settings' own check: it takes no underscore in a host name, for one.
        raise InfrastructureError(
            "S3_ENDPOINT_URL is not an address that boto3 accepts", code=ErrorCode.STORAGE_REFUSED
        ) from None
