"""The S3 engine, on boto3: AWS and every server that speaks its protocol."""

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
from pipeline.storage.s3.errors import OVERTAKEN, UNKNOWN_TO_SERVER, answer_code, s3_errors

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
#: How often a first content is offered again when others' writes or deletions come in between.
_OFFERS = 5


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
            self._client = open_client(session, options.endpoint_url, attempts=3, timeouts=(5.0, 30.0))
            # Who asks whether the store is there wants to know now.
            self._probe = open_client(session, options.endpoint_url, attempts=1, timeouts=(2.0, 5.0))

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

    def put_new(self, key: str, content: bytes, *, content_type: str) -> bytes:
        """See the protocol. The server decides who is first (``If-None-Match``).

        On one without conditional writes, all who look before anything is there are: the last one's content stays, and
        an earlier one may have been given its own.
        """
        check_key(key)
        for _ in range(_OFFERS):
            try:
                return self.read(key)
            except PermanentError:
                self._offer(key, content, content_type)
        raise InfrastructureError("an object of the S3 store comes and goes", code=ErrorCode.STORAGE_UNAVAILABLE)

    def read(self, key: str) -> bytes:
        check_key(key)
        # As a context manager, a body of boto3 gives the raw stream, whose exceptions nobody translates.
        with s3_errors(), closing(self._client.get_object(Bucket=self._bucket, Key=key)["Body"]) as body:
            return bytes(body.read())

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
        with suppress(PermanentError), s3_errors():
            # Missing, as it should be. Without the right to list the bucket, S3 says "forbidden" of what is missing.
            self._probe.get_object(**place)["Body"].close()

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

    def _offer(self, key: str, content: bytes, content_type: str) -> None:
        """Put the content unless there is an object, or somebody is about to put one."""
        request = {"Bucket": self._bucket, "Key": key, "Body": content, "ContentType": content_type}
        with s3_errors():
            try:
                self._client.put_object(**request, IfNoneMatch="*")
            except ClientError as error:
                code = answer_code(error)
                if code in UNKNOWN_TO_SERVER:
                    self._client.put_object(**request)
                elif code not in OVERTAKEN:
                    raise

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
