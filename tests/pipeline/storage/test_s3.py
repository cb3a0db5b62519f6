"""Tests specific to the S3 engine: outages, refusals, links; the conformance suite covers every store's guarantees."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

import pytest
import requests
from botocore.exceptions import ClientError

from devstack.s3 import S3Server
from pipeline.errors import ErrorCode, InfrastructureError, PermanentError
from pipeline.storage.s3 import store as store_module
from pipeline.storage.s3.errors import translate_s3_error
from pipeline.storage.s3.store import S3Options, S3Store
from tests.support.buckets import new_bucket

KEY = "task_vocals.wav"
Call = Callable[[S3Store, Path], object]

CALLS: dict[str, Call] = {
    "put": lambda store, file: store.put(KEY, file, content_type="audio/wav"),
    "get": lambda store, file: store.get(KEY, file),
    "stat": lambda store, file: store.stat(KEY),
    "put_new": lambda store, file: store.put_new(KEY, b"stem", content_type="audio/wav"),
    "read": lambda store, file: store.read(KEY),
    "copy": lambda store, file: store.copy_from(store, KEY, "copy.wav", content_type="audio/wav"),
    "delete": lambda store, file: store.delete(KEY),
    "check": lambda store, file: store.check(),
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(b"stem")
    return path


@pytest.fixture
def options(s3_server: S3Server) -> S3Options:
    """Return the options of a new bucket."""
    return new_bucket(s3_server)


def failure_of(call: Call, store: S3Store, file: Path) -> InfrastructureError:
    with pytest.raises(InfrastructureError) as caught:
        call(store, file)
    return caught.value


@pytest.mark.s3
def test_outage_is_an_infrastructure_error_and_recovers(s3_server: S3Server, options: S3Options, file: Path) -> None:
    store = S3Store(options)
    store.put(KEY, file, content_type="audio/wav")
    s3_server.stop()
    codes = {name: failure_of(call, store, file).code for name, call in CALLS.items()}
    assert codes == dict.fromkeys(CALLS, ErrorCode.STORAGE_UNAVAILABLE)
    s3_server.start()
    store.check()
    store.get(KEY, file)
    assert file.read_bytes() == b"stem"


@pytest.mark.s3
@pytest.mark.slow
def test_check_detects_a_hung_server(s3_server: S3Server, options: S3Options, file: Path) -> None:
    store = S3Store(options)
    s3_server.pause()
    assert failure_of(CALLS["check"], store, file).code is ErrorCode.STORAGE_UNAVAILABLE
    s3_server.resume()
    store.check()


@pytest.mark.s3
@pytest.mark.parametrize("call", CALLS)
def test_wrong_credentials_name_the_settings_without_secrets(options: S3Options, file: Path, call: str) -> None:
    secret = "wrong-" + uuid4().hex
    for wrong in (replace(options, secret_access_key=secret), replace(options, access_key_id="UNKNOWN")):
        error = failure_of(CALLS[call], S3Store(wrong), file)
        assert error.code is ErrorCode.STORAGE_REFUSED
        assert "AWS_SECRET_ACCESS_KEY" in error.message
        assert secret not in error.message
        assert str(options.secret_access_key) not in error.message


# Some servers accept a deletion from a missing bucket.
@pytest.mark.s3
@pytest.mark.parametrize("call", [name for name in CALLS if name != "delete"])
def test_missing_bucket_is_distinguished_from_a_missing_object(options: S3Options, file: Path, call: str) -> None:
    error = failure_of(CALLS[call], S3Store(replace(options, bucket="no-such-bucket")), file)
    assert error.code is ErrorCode.STORAGE_REFUSED
    assert "S3_BUCKET_NAME" in error.message


@pytest.mark.parametrize("bucket", ["Not_A_Bucket!", "a/b"])
def test_malformed_bucket_name_is_reported(bucket: str, file: Path) -> None:
    store = S3Store(
        S3Options(bucket=bucket, access_key_id="a", secret_access_key="b", endpoint_url="http://127.0.0.1:9")
    )
    error = failure_of(CALLS["put"], store, file)
    assert "S3_BUCKET_NAME" in error.message


def test_missing_credentials_are_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, file: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    store = S3Store(S3Options(bucket="stems", endpoint_url="http://127.0.0.1:9"))
    error = failure_of(CALLS["put"], store, file)
    assert (error.code, "AWS_ACCESS_KEY_ID" in error.message) == (ErrorCode.STORAGE_REFUSED, True)
    with pytest.raises(InfrastructureError):
        store.url(KEY)


def test_endpoint_rejected_by_boto3_is_reported() -> None:
    with pytest.raises(InfrastructureError, match="S3_ENDPOINT_URL"):
        S3Store(S3Options(bucket="stems", endpoint_url="http://under_score:9000"))


@pytest.mark.s3
def test_ensure_bucket_keeps_an_existing_bucket(options: S3Options, file: Path) -> None:
    store = S3Store(options)
    store.put(KEY, file, content_type="audio/wav")
    store.ensure_bucket()
    assert store.stat(KEY) is not None


@pytest.mark.s3
def test_large_object_is_copied_in_parts(options: S3Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit is lowered from 5 GiB; the size of the parts is unchanged."""
    monkeypatch.setattr(store_module, "_MAX_SINGLE_COPY", 1024)
    content = bytes(range(256)) * (40 * 4096)
    (tmp_path / "large").write_bytes(content)
    store = S3Store(options)
    store.put(KEY, tmp_path / "large", content_type="audio/wav")
    store.copy_from(store, KEY, "copy.wav", content_type="audio/flac")
    store.get("copy.wav", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == content
    with requests.get(store.url("copy.wav"), timeout=20, stream=True) as answer:
        assert answer.headers["Content-Type"] == "audio/flac"


def test_presigned_links_expire_and_contain_no_secret() -> None:
    options = S3Options(bucket="stems", access_key_id="KEYID", secret_access_key="s3cret", url_ttl=3600)
    parts = urlsplit(S3Store(options).url(KEY))
    query = parse_qs(parts.query)
    assert query["X-Amz-Algorithm"] == ["AWS4-HMAC-SHA256"]
    assert query["X-Amz-Expires"] == ["3600"]
    assert "s3cret" not in parts.geturl()
    assert "s3cret" not in repr(options)


def test_links_on_a_public_domain_are_not_signed() -> None:
    store = S3Store(S3Options(bucket="stems", public_domain="https://cdn.example.com/stems/"))
    assert store.url(KEY) == f"https://cdn.example.com/stems/{KEY}"


ERRORS = [
    (503, "SlowDown", ErrorCode.STORAGE_UNAVAILABLE),
    (429, "TooManyRequests", ErrorCode.STORAGE_UNAVAILABLE),
    (500, "InternalError", ErrorCode.STORAGE_UNAVAILABLE),
    (507, "XMinioStorageFull", ErrorCode.STORAGE_UNAVAILABLE),
    (400, "RequestTimeout", ErrorCode.STORAGE_UNAVAILABLE),
    (412, "PreconditionFailed", ErrorCode.STORAGE_UNAVAILABLE),
    (403, "AccessDenied", ErrorCode.STORAGE_REFUSED),
    (403, "403", ErrorCode.STORAGE_REFUSED),
    (401, "Unauthorized", ErrorCode.STORAGE_REFUSED),
    (403, "RequestTimeTooSkewed", ErrorCode.STORAGE_REFUSED),
    (400, "AuthorizationHeaderMalformed", ErrorCode.STORAGE_REFUSED),
    (301, "PermanentRedirect", ErrorCode.STORAGE_REFUSED),
    (404, "NoSuchBucket", ErrorCode.STORAGE_REFUSED),
    (400, "EntityTooLarge", ErrorCode.STORAGE_REFUSED),
    (404, "NoSuchKey", ErrorCode.OBJECT_MISSING),
    (404, "404", ErrorCode.OBJECT_MISSING),
]


@pytest.mark.parametrize(("status", "code", "expected"), ERRORS)
def test_server_errors_are_classified(status: int, code: str, expected: ErrorCode) -> None:
    answer = ClientError(
        {"Error": {"Code": code, "Message": "for s3cret"}, "ResponseMetadata": {"HTTPStatusCode": status}},  # type: ignore[typeddict-item]
        "PutObject",
    )
    error = translate_s3_error(answer)
    assert error.code is expected
    assert isinstance(error, PermanentError if expected is ErrorCode.OBJECT_MISSING else InfrastructureError)
    assert "s3cret" not in error.message
