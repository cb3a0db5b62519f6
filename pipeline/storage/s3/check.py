"""The check of an S3 store: every kind of call that the services make, and the links that clients receive."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import requests
from botocore.exceptions import BotoCoreError, ClientError

from pipeline.errors import ErrorCode, InfrastructureError
from pipeline.messages import OutputFormat
from pipeline.storage.object_keys import outcome_key, stem_key
from pipeline.storage.s3.errors import CONDITION_FAILED, error_code, http_status

_CONTENT = b"check"
#: Longest waits for the connection and for the answer to a link, s.
_LINK_TIMEOUTS = (2.0, 5.0)
#: Statuses with which servers refuse a header that they do not support.
_UNSUPPORTED = frozenset({400, 405, 501})
_ONE_OUTCOME = "Without conditional writes, a task could have two outcomes: use a store that supports them"


@dataclass(frozen=True, slots=True)
class StoreCheck:
    """Checks the buckets of a store through ``client``, which has short timeouts and no retries.

    The checks raise botocore's exceptions, and InfrastructureError for what no call reports by itself. They remove
    the objects that they create.
    """

    client: Any
    bucket: str
    private_bucket: str
    """The bucket of the objects that clients never fetch; it may be the same."""
    link: Callable[[str], str] | None
    """Returns the link to a key, as clients receive it; None: links are not checked."""
    public_domain: str | None
    """The address under which ``bucket`` is public; None: it is not, or links are not checked."""

    def check_all(self, *, stems: bool) -> None:
        """Make every kind of call once.

        ``stems``: whether this is the store of finished stems. The hand-off store needs no conditional writes, copies
        and links.
        """
        task = uuid4()
        with self._probe(self.private_bucket, outcome_key(task, "check")) as private:
            self.client.head_object(**private)
            self._check_multipart(private)
            self.client.list_objects_v2(Bucket=self.private_bucket, MaxKeys=1)
            if stems:
                self._check_conditional_writes(outcome_key(task, "once"))
                self._check_publishing(private, _stem_key(task))
        with suppress(self.client.exceptions.NoSuchKey):
            # Without the permission to list the bucket, S3 reports a missing object as forbidden, which raises.
            self.client.get_object(**private)["Body"].close()

    def check_writing(self) -> None:
        """Write, read and delete one object in each bucket."""
        task = uuid4()
        for bucket, key in {self.bucket: _stem_key(task), self.private_bucket: outcome_key(task, "check")}.items():
            with self._probe(bucket, key):
                pass

    @contextmanager
    def _probe(self, bucket: str, key: str) -> Iterator[dict[str, str]]:
        """Write and read an object, yield its location, and delete it."""
        with self._removed(bucket, key) as location:
            self.client.put_object(**location, Body=_CONTENT)
            self.client.get_object(**location)["Body"].close()
            yield location

    @contextmanager
    def _removed(self, bucket: str, key: str) -> Iterator[dict[str, str]]:
        """Yield the location of an object, and delete it; after a failure as far as possible."""
        location = {"Bucket": bucket, "Key": key}
        try:
            yield location
        except (ClientError, InfrastructureError):
            with suppress(ClientError, BotoCoreError):
                self.client.delete_object(**location)
            raise
        self.client.delete_object(**location)

    def _check_multipart(self, location: dict[str, str]) -> None:
        upload = self.client.create_multipart_upload(**location)
        self.client.abort_multipart_upload(**location, UploadId=upload["UploadId"])

    def _check_conditional_writes(self, key: str) -> None:
        """Raise InfrastructureError unless the second of two conditional writes of an object fails."""
        with self._removed(self.private_bucket, key) as location:
            write = {**location, "Body": _CONTENT, "IfNoneMatch": "*"}
            try:
                self.client.put_object(**write)
                self.client.put_object(**write)
            except ClientError as error:
                if error_code(error) in CONDITION_FAILED:
                    return
                status = http_status(error)
                # The server has accepted such a write without the condition a moment ago.
                if status in _UNSUPPORTED:
                    raise _unusable(f"the S3 server answers {status} to If-None-Match. {_ONE_OUTCOME}") from error
                raise
            raise _unusable(f"the S3 server ignores If-None-Match. {_ONE_OUTCOME}")

    def _check_publishing(self, private: dict[str, str], key: str) -> None:
        """Copy the private object as a finished stem is copied, and fetch both as a client would."""
        with self._removed(self.bucket, key) as location:
            self.client.copy_object(**location, CopySource=private, MetadataDirective="REPLACE")
            self.client.head_object(**location)
            self.client.list_objects_v2(Bucket=self.bucket, MaxKeys=1)
            if self.link is not None:
                self._check_link(self.link(key))
            if self.public_domain is not None and _fetch(f"{self.public_domain}/{private['Key']}")[1] == _CONTENT:
                raise _unusable(
                    "S3_PUBLIC_DOMAIN serves the folders outcomes/, handoff/ and staged/, which must not be public: "
                    "set S3_PRIVATE_BUCKET_NAME, or deny them in the policy of the bucket"
                )

    def _check_link(self, url: str) -> None:
        status, content = _fetch(url)
        if content != _CONTENT:
            settings = (
                "S3_PUBLIC_DOMAIN, and that the bucket is public there"
                if self.public_domain is not None
                else "AWS_REGION, S3_ENDPOINT_URL and S3_ADDRESSING_STYLE"
            )
            raise _unusable(f"clients cannot fetch the links to stems (status {status}): check {settings}")


def _fetch(url: str) -> tuple[int, bytes]:
    """Return the status and the content behind a link, fetched without credentials; empty for an error status.

    Raises InfrastructureError if the host does not answer.
    """
    try:
        # A function in place of credentials keeps requests from searching some in ~/.netrc.
        with requests.get(url, auth=lambda request: request, timeout=_LINK_TIMEOUTS, stream=True) as answer:
            return answer.status_code, next(answer.iter_content(64), b"") if answer.ok else b""
    except requests.RequestException as error:
        raise InfrastructureError(
            f"the host of the links to stems cannot be reached ({type(error).__name__}): "
            "check S3_PUBLIC_DOMAIN, S3_ENDPOINT_URL and S3_ADDRESSING_STYLE",
            code=ErrorCode.STORAGE_UNAVAILABLE,
        ) from error


def _stem_key(task: UUID) -> str:
    return stem_key(task, "check", OutputFormat.WAV)


def _unusable(sentence: str) -> InfrastructureError:
    return InfrastructureError(sentence, code=ErrorCode.STORAGE_REFUSED)
