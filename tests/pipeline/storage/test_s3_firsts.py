"""Tests of ``put_new`` on servers without conditional writes, and on networks that lose responses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace

import pytest

from devstack.s3 import S3Server
from pipeline.errors import ErrorCode, InfrastructureError
from pipeline.storage.s3.store import S3Options, S3Store
from tests.pipeline.storage.gateway import Refusal, Request, Rule, gateway
from tests.support.buckets import new_bucket

pytestmark = pytest.mark.s3
KEY = "outcomes/task.json"
OpenThroughGateway = Callable[[Rule], S3Store]


@pytest.fixture
def options(s3_server: S3Server) -> S3Options:
    """Return the options of a new bucket."""
    return new_bucket(s3_server)


@pytest.fixture
def open_through_gateway(s3_server: S3Server, options: S3Options) -> Iterator[OpenThroughGateway]:
    """Return a function that opens the store through a gateway with a rule."""
    with ExitStack() as stack:
        yield lambda rule: S3Store(replace(options, endpoint_url=stack.enter_context(gateway(s3_server, rule))))


def put_new(store: S3Store, content: bytes) -> bytes:
    return store.put_new(KEY, content, content_type="application/json")


def failure_of(call: Callable[[], object]) -> ErrorCode:
    with pytest.raises(InfrastructureError) as caught:
        call()
    return caught.value.code


@pytest.mark.parametrize(
    ("status", "code"), [(400, "InvalidArgument"), (405, "MethodNotAllowed"), (501, "NotImplemented")]
)
def test_nothing_is_decided_on_a_server_without_conditional_writes(
    open_through_gateway: OpenThroughGateway, options: S3Options, status: int, code: str
) -> None:
    store = open_through_gateway(lambda request: Refusal(status, code) if request.is_conditional else None)
    assert failure_of(lambda: put_new(store, b"first")) is ErrorCode.STORAGE_REFUSED
    assert S3Store(options).stat(KEY) is None


def test_writer_with_a_lost_response_is_still_the_first(
    open_through_gateway: OpenThroughGateway, options: S3Options
) -> None:
    """boto3 sends the request again, and the server finds the object already stored."""
    answers: list[int | None] = []

    def lose_the_first(request: Request) -> Refusal | None:
        if not request.is_conditional or request.status is None:
            return None
        answers.append(request.status)
        return Refusal(503, "ServiceUnavailable") if len(answers) == 1 else None

    assert put_new(open_through_gateway(lose_the_first), b"first") == b"first"
    assert answers == [200, 412]
    assert S3Store(options).read(KEY) == b"first"


@pytest.mark.parametrize("code", ["ConditionalRequestConflict", "OperationAborted"])
def test_conflict_is_retried_immediately(open_through_gateway: OpenThroughGateway, code: str) -> None:
    refusals = [Refusal(409, code)] * 2

    def conflict(request: Request) -> Refusal | None:
        return refusals.pop() if request.is_conditional and request.status is None and refusals else None

    assert put_new(open_through_gateway(conflict), b"first") == b"first"
    assert not refusals


def test_persistent_conflict_is_an_infrastructure_error(open_through_gateway: OpenThroughGateway) -> None:
    store = open_through_gateway(
        lambda request: Refusal(409, "ConditionalRequestConflict") if request.is_conditional else None
    )
    assert failure_of(lambda: put_new(store, b"first")) is ErrorCode.STORAGE_UNAVAILABLE


def test_refused_write_is_reported(open_through_gateway: OpenThroughGateway) -> None:
    store = open_through_gateway(lambda request: Refusal(403, "AccessDenied") if request.is_conditional else None)
    assert failure_of(lambda: put_new(store, b"first")) is ErrorCode.STORAGE_REFUSED


def test_check_detects_a_missing_list_permission(open_through_gateway: OpenThroughGateway) -> None:
    """Without that permission S3 reports missing objects as forbidden."""
    store = open_through_gateway(lambda request: Refusal(403, "AccessDenied") if request.status == 404 else None)
    assert failure_of(store.check) is ErrorCode.STORAGE_REFUSED
    assert failure_of(lambda: store.read(KEY)) is ErrorCode.STORAGE_REFUSED


def test_truncated_object_is_an_error(open_through_gateway: OpenThroughGateway, options: S3Options) -> None:
    put_new(S3Store(options), b"first")
    store = open_through_gateway(lambda request: Refusal(200, "Half", withheld=10) if request.method == "GET" else None)
    assert failure_of(lambda: store.read(KEY)) is ErrorCode.STORAGE_UNAVAILABLE
