"""The S3 engine, on boto3: for AWS and other S3-compatible servers."""

from __future__ import annotations

import tempfile
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.exceptions import ClientError

from pipeline.errors import ErrorCode, InfrastructureError, PermanentError
from pipeline.files import local_errors, replacing
from pipeline.storage.object_keys import check_key
from pipeline.storage.protocol import ObjectStore, StoredObject
from pipeline.storage.s3.client import open_client
from pipeline.storage.s3.errors import CONDITION_FAILED, NOT_SUPPORTED, error_code, s3_errors

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


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Options:
    """The bucket's location and credentials.

    Without an ``endpoint_url`` the server is AWS. Without keys boto3 uses its default credential chain (role, profile).
    """

    bucket: str
    region: str = "us-east-1"
    endpoint_url: str | None = None
    access_key_id: str | None = None
    secret_access_key: str | None = field(default=None, repr=False)
    public_domain: str | None = None
    """Links are ``public_domain/key``; None: presigned links."""
    url_ttl: int = 86_400
    """Lifetime of presigned links, s."""


class S3Store:
    """An ``ObjectStore`` (see ``pipeline.storage.protocol``) in an S3 bucket. Thread-safe.

    A process that is killed during the upload of a large object leaves invisible parts; a lifecycle rule of the bucket
    (AbortIncompleteMultipartUpload) removes them.
    """

    def __init__(self, options: S3Options) -> None:
        self._options = options
        self._bucket = options.bucket
        with s3_errors():
            # Threads may share clients, but not sessions: this session creates two clients and is discarded.
            session = boto3.session.Session(
                aws_access_key_id=options.access_key_id,
                aws_secret_access_key=options.secret_access_key,
                region_name=options.region,
            )
            self._client = open_client(session, options.endpoint_url, attempts=3, timeouts=(5.0, 30.0))
            # ``check`` must report an outage quickly, so its client has short timeouts and no retries.
            self._check_client = open_client(session, options.endpoint_url, attempts=1, timeouts=(2.0, 5.0))

    def put(self, key: str, source: Path, *, content_type: str) -> StoredObject:
        """Upload the file; large files in parts."""
        check_key(key)
        with s3_errors():
            size = source.stat().st_size
            extra = {"ContentType": content_type}
            self._client.upload_file(str(source), self._bucket, key, ExtraArgs=extra, Config=_TRANSFER)
        return StoredObject(key, size)

    def get(self, key: str, target: Path) -> None:
        """Download the object to ``target``; large objects in parts."""
        check_key(key)
        try:
            with s3_errors(), replacing(target) as partial:
                self._client.download_file(self._bucket, key, str(partial), Config=_TRANSFER)
        except PermanentError:
            # boto3 may start a download with a HEAD request, whose 404 may mean a missing bucket.
            self._require_bucket()
            raise

    def put_new(self, key: str, content: bytes, *, content_type: str) -> bytes:
        """Store ``content`` unless an object exists; the server decides which writer is first (``If-None-Match``).

        On a server without conditional writes, all callers that find no object write theirs: the last content remains,
        and an earlier caller may have received its own.
        """
        check_key(key)
        request = {"Bucket": self._bucket, "Key": key, "Body": content, "ContentType": content_type}
        for _ in range(_MAX_PUT_RACES):
            with suppress(PermanentError):
                return self.read(key)
            with s3_errors():
                try:
                    self._client.put_object(**request, IfNoneMatch="*")
                except ClientError as error:
                    code = error_code(error)
                    if code in NOT_SUPPORTED:
                        self._client.put_object(**request)
                    elif code not in CONDITION_FAILED:
                        raise
        raise InfrastructureError(
            "an object of the S3 store is created and deleted repeatedly", code=ErrorCode.STORAGE_UNAVAILABLE
        )

    def read(self, key: str) -> bytes:
        """Download the object into memory."""
        check_key(key)
        # ``closing``: as a context manager, a body of boto3 yields the raw stream, whose exceptions are not translated.
        with s3_errors(), closing(self._client.get_object(Bucket=self._bucket, Key=key)["Body"]) as body:
            return bytes(body.read())

    def stat(self, key: str) -> StoredObject | None:
        """Request the object's size; None if the object is missing from an existing bucket."""
        check_key(key)
        try:
            with s3_errors():
                head = self._client.head_object(Bucket=self._bucket, Key=key)
        except PermanentError:
            self._require_bucket()
            return None
        return StoredObject(key, int(head["ContentLength"]))

    def copy_from(self, other: ObjectStore, source_key: str, key: str, *, content_type: str) -> StoredObject:
        """Copy an object; within one S3 server and account the server copies it, otherwise through a local file."""
        check_key(key)
        options = self._options
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
        source = {"Bucket": other._bucket, "Key": source_key}
        extra = {"ContentType": content_type, "MetadataDirective": "REPLACE"}
        with s3_errors():
            if found.bytes <= _MAX_SINGLE_COPY:
                self._client.copy_object(Bucket=self._bucket, Key=key, CopySource=source, **extra)
            else:
                self._client.copy(source, self._bucket, key, ExtraArgs=extra, Config=_TRANSFER)
        return StoredObject(key, found.bytes)

    def url(self, key: str) -> str:
        """Return a link on the public domain, or a presigned link."""
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
        """Delete the object; S3 accepts a missing one."""
        check_key(key)
        with s3_errors():
            self._client.delete_object(Bucket=self._bucket, Key=key)

    def check(self) -> None:
        """Write, read and delete an object, and verify that missing objects are reported as missing."""
        # A unique key, so that concurrent checks do not delete each other's object.
        location = {"Bucket": self._bucket, "Key": f"check/{uuid4().hex}"}
        with s3_errors():
            self._check_client.put_object(**location, Body=b"check")
            self._check_client.get_object(**location)["Body"].close()
            self._check_client.delete_object(**location)
        with suppress(PermanentError), s3_errors():
            # Without the permission to list the bucket, S3 reports a missing object as forbidden, which raises.
            self._check_client.get_object(**location)["Body"].close()

    def ensure_bucket(self) -> None:
        """Create the bucket if it does not exist: for local development. Raises InfrastructureError."""
        region = self._options.region
        # AWS rejects the name of its first region here.
        configuration = {} if region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": region}}
        with s3_errors():
            try:
                self._client.create_bucket(Bucket=self._bucket, **configuration)
            except (self._client.exceptions.BucketAlreadyOwnedByYou, self._client.exceptions.BucketAlreadyExists):
                self._client.head_bucket(Bucket=self._bucket)  # raises unless this account may access it

    def _require_bucket(self) -> None:
        """Raise InfrastructureError if the bucket is missing; the 404 of a HEAD request does not show this."""
        with s3_errors():
            self._client.list_objects_v2(Bucket=self._bucket, MaxKeys=1)
