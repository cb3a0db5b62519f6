"""Tests of the readiness check of the S3 engine, with servers that refuse one kind of call."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any
from uuid import uuid4

import boto3
import pytest
import requests

from devstack.s3 import S3Server
from pipeline.errors import ErrorCode, InfrastructureError
from pipeline.storage.object_keys import outcome_key
from pipeline.storage.s3.store import S3Options, S3Store
from tests.pipeline.storage.gateway import Refusal, Request, Rule, gateway
from tests.support.buckets import new_bucket

pytestmark = pytest.mark.s3
Open = Callable[..., S3Store]
"""``open(rule, **options)`` opens the store through a gateway."""

CALLS: dict[str, tuple[Callable[[Request], bool], str]] = {
    "PutObject": (lambda request: request.method == "PUT" and not request.is_copy, "s3:PutObject"),
    "GetObject": (lambda request: request.method == "GET" and "list-type" not in request.path, "s3:GetObject"),
    "HeadObject": (lambda request: request.method == "HEAD", "s3:GetObject"),
    "CopyObject": (lambda request: request.is_copy, "s3:GetObject and s3:PutObject"),
    "ListObjectsV2": (lambda request: "list-type" in request.path, "s3:ListBucket"),
    "CreateMultipartUpload": (lambda request: request.path.endswith("?uploads"), "s3:PutObject"),
    "AbortMultipartUpload": (lambda request: "uploadId=" in request.path, "s3:AbortMultipartUpload"),
    "DeleteObject": (
        lambda request: request.method == "DELETE" and "uploadId=" not in request.path,
        "s3:DeleteObject",
    ),
}


@pytest.fixture
def options(s3_server: S3Server) -> S3Options:
    """Return the options of a new bucket."""
    return new_bucket(s3_server)


@pytest.fixture
def open_store(s3_server: S3Server, options: S3Options) -> Iterator[Open]:
    with ExitStack() as stack:

        def open_through_gateway(rule: Rule, **changed: Any) -> S3Store:
            url = stack.enter_context(gateway(s3_server, rule))
            return S3Store(replace(options, endpoint_url=url, **changed))

        yield open_through_gateway


def client_of(options: S3Options) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=options.endpoint_url,
        region_name=options.region,
        aws_access_key_id=options.access_key_id,
        aws_secret_access_key=options.secret_access_key,
    )


def keys_in(options: S3Options, bucket: str | None = None) -> list[str]:
    listed = client_of(options).list_objects_v2(Bucket=bucket or options.bucket)
    return [found["Key"] for found in listed.get("Contents", [])]


def failure_of(store: S3Store) -> InfrastructureError:
    with pytest.raises(InfrastructureError) as caught:
        store.check()
    return caught.value


def refuse(status: int, code: str, matches: Callable[[Request], bool]) -> Rule:
    return lambda request: Refusal(status, code) if request.status is None and matches(request) else None


@pytest.mark.parametrize("call", CALLS)
def test_a_denied_call_is_named_with_the_right_to_grant(open_store: Open, options: S3Options, call: str) -> None:
    matches, action = CALLS[call]
    error = failure_of(open_store(refuse(403, "AccessDenied", matches)))
    assert error.code is ErrorCode.STORAGE_REFUSED
    assert call in error.message
    assert action in error.message
    if call != "DeleteObject":
        assert keys_in(options) == []


@pytest.mark.parametrize(
    ("status", "code"), [(400, "InvalidArgument"), (405, "MethodNotAllowed"), (501, "NotImplemented")]
)
def test_a_server_that_refuses_conditional_writes_is_unusable(open_store: Open, status: int, code: str) -> None:
    rule = refuse(status, code, lambda request: request.is_conditional)
    error = failure_of(open_store(rule))
    assert error.code is ErrorCode.STORAGE_REFUSED
    assert error.message.startswith(f"the S3 server answers {status} to If-None-Match")


def test_a_server_that_ignores_the_condition_is_unusable(options: S3Options) -> None:
    """The header is removed before the request is signed, which has the same effect as a server that ignores it."""

    def forget(request: Any, **_: object) -> None:
        del request.headers["If-None-Match"]

    store = S3Store(options)
    store._check.client.meta.events.register("before-sign.s3.PutObject", forget)
    assert failure_of(store).message.startswith("the S3 server ignores If-None-Match")
    assert keys_in(options) == []


def test_the_hand_off_needs_no_conditional_writes_copies_and_links(open_store: Open) -> None:
    rule = refuse(501, "NotImplemented", lambda request: request.is_conditional or request.is_copy)
    open_store(rule, stems=False).check()


def test_a_link_that_clients_cannot_fetch_is_reported(open_store: Open, options: S3Options) -> None:
    rule = refuse(403, "AccessDenied", lambda request: "X-Amz-Signature" in request.path)
    assert "clients cannot fetch the links to stems (status 403)" in failure_of(open_store(rule)).message
    open_store(rule, check_links=False).check()
    assert keys_in(options) == []


def test_a_link_is_fetched_without_credentials(
    open_store: Open, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login operator password hunter2\n")
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    links: list[Request] = []

    def record(request: Request) -> None:
        if "X-Amz-Signature" in request.path:
            links.append(request)

    open_store(record).check()
    assert links
    assert not any("authorization" in link.headers for link in links)


def test_a_complete_check_is_followed_by_small_ones_until_one_fails(open_store: Open) -> None:
    seen: list[str] = []
    denied = False

    def record(request: Request) -> Refusal | None:
        if request.status is None:
            seen.append(request.method)
        return Refusal(403, "AccessDenied") if denied and request.method == "PUT" else None

    def calls_of_a_check() -> list[str]:
        seen.clear()
        store.check()
        return list(seen)

    store = open_store(record)
    everything = calls_of_a_check()
    assert calls_of_a_check() == ["PUT", "GET", "DELETE"]
    denied = True
    assert failure_of(store).code is ErrorCode.STORAGE_REFUSED
    denied = False
    assert calls_of_a_check() == everything


def test_a_check_leaves_nothing_behind(options: S3Options) -> None:
    S3Store(options).check()
    assert keys_in(options) == []


@pytest.fixture
def public(options: S3Options) -> S3Options:
    """Return the options of a bucket that anyone can read, with the public domain."""
    allow_reading(options)
    return replace(options, public_domain=f"{options.endpoint_url}/{options.bucket}")


def allow_reading(options: S3Options, *, except_for: tuple[str, ...] = ()) -> None:
    everyone = {"Principal": "*", "Action": "s3:GetObject"}
    statements = [{"Effect": "Allow", **everyone, "Resource": f"arn:aws:s3:::{options.bucket}/*"}]
    statements += [
        {"Effect": "Deny", **everyone, "Resource": f"arn:aws:s3:::{options.bucket}/{folder}/*"} for folder in except_for
    ]
    policy = json.dumps({"Version": "2012-10-17", "Statement": statements})
    client_of(options).put_bucket_policy(Bucket=options.bucket, Policy=policy)


def test_a_public_bucket_must_not_contain_outcomes(public: S3Options) -> None:
    error = failure_of(S3Store(public))
    assert error.code is ErrorCode.STORAGE_REFUSED
    assert "S3_PRIVATE_BUCKET_NAME" in error.message


def test_a_domain_that_does_not_serve_the_bucket_is_reported(options: S3Options) -> None:
    domain = f"{options.endpoint_url}/{options.bucket}"  # nothing is public
    assert "check S3_PUBLIC_DOMAIN" in failure_of(S3Store(replace(options, public_domain=domain))).message
    nowhere = failure_of(S3Store(replace(options, public_domain="http://127.0.0.1:9/stems")))
    assert (nowhere.code, "S3_PUBLIC_DOMAIN" in nowhere.message) == (ErrorCode.STORAGE_UNAVAILABLE, True)


def test_a_private_bucket_keeps_outcomes_and_the_hand_off_apart(
    public: S3Options, s3_server: S3Server, tmp_path: Any
) -> None:
    private = new_bucket(s3_server)
    store = S3Store(replace(public, private_bucket=private.bucket))
    file, task = tmp_path / "stem", uuid4()
    file.write_bytes(b"stem")
    final, outcome, staged = f"{task}_vocals.wav", outcome_key(task, ""), f"staged/{task}_vocals-0.wav"

    store.check()
    assert store.put_new(outcome, b"{}", content_type="application/json") == b"{}"
    store.put(staged, file, content_type="audio/wav")
    store.put(f"handoff/{task}/vocals-0.wav", file, content_type="audio/wav")
    store.copy_from(store, staged, final, content_type="audio/wav")

    assert keys_in(public) == [final]
    assert keys_in(private) == sorted([f"handoff/{task}/vocals-0.wav", outcome, staged])
    assert requests.get(store.url(final), timeout=20).content == b"stem"
    assert requests.get(f"{public.public_domain}/{outcome}", timeout=20).status_code in (403, 404)
    assert requests.get(f"{private.endpoint_url}/{private.bucket}/{outcome}", timeout=20).status_code == 403
    store.delete(staged)
    assert store.stat(staged) is None
    assert store.read(outcome) == b"{}"


def test_folders_that_the_policy_denies_need_no_bucket_of_their_own(public: S3Options) -> None:
    allow_reading(public, except_for=("outcomes", "staged", "handoff"))
    # The account of the test owns the bucket, and VersityGW does not apply policies to it.
    S3Store(public).check()


def test_a_missing_private_bucket_is_reported(options: S3Options) -> None:
    error = failure_of(S3Store(replace(options, private_bucket="no-such-bucket")))
    assert (error.code, "S3_PRIVATE_BUCKET_NAME" in error.message) == (ErrorCode.STORAGE_REFUSED, True)
