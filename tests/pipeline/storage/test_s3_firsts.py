"""Being the first, on servers that know no conditional writes, and over networks that lose answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import pytest

from devstack.s3 import S3Server
from pipeline.errors import ErrorCode, InfrastructureError
from pipeline.storage.s3.store import S3Options, S3Store
from tests.pipeline.storage.gateway import Refusal, Request, Rule, gateway
from tests.support.buckets import new_bucket

pytestmark = pytest.mark.s3
KEY = "outcomes/task.json"
Behind = Callable[[Rule], S3Store]


@pytest.fixture
def options(s3_server: S3Server) -> S3Options:
    """A bucket of the test's own."""
    return new_bucket(s3_server)


@pytest.fixture
def behind(s3_server: S3Server, options: S3Options) -> Iterator[Behind]:
    """The store as it is seen through a gateway."""
    with ExitStack() as stack:
        yield lambda rule: S3Store(replace(options, endpoint_url=stack.enter_context(gateway(s3_server, rule))))


def put_new(store: S3Store, content: bytes) -> bytes:
    return store.put_new(KEY, content, content_type="application/json")


def failure_of(call: Callable[[], object]) -> ErrorCode:
    with pytest.raises(InfrastructureError) as caught:
        call()
    return caught.value.code


def test_a_server_without_conditional_writes_keeps_the_first_it_has(behind: Behind) -> None:
    store = behind(lambda request: Refusal(501, "NotImplemented") if request.is_conditional else None)
    assert put_new(store, b"first") == b"first"
    assert put_new(store, b"second") == b"first"


def test_a_server_that_ignores_the_condition_keeps_the_first_it_has(options: S3Options) -> None:
    """The header is left out before the request is signed: a server that ignores it does just the same."""

    def forget(request: Any, **_: object) -> None:
        del request.headers["If-None-Match"]

    store = S3Store(options)
    store._client.meta.events.register("before-sign.s3.PutObject", forget)
    assert put_new(store, b"first") == b"first"
    assert put_new(store, b"second") == b"first"


def test_a_writer_whose_answer_was_lost_is_still_the_first(behind: Behind, options: S3Options) -> None:
    """boto3 sends it again, and the server finds that it is there already."""
    answers: list[int | None] = []

    def lose_the_first(request: Request) -> Refusal | None:
        if not request.is_conditional or request.status is None:
            return None
        answers.append(request.status)
        return Refusal(503, "ServiceUnavailable") if len(answers) == 1 else None

    assert put_new(behind(lose_the_first), b"first") == b"first"
    assert answers == [200, 412]
    assert S3Store(options).read(KEY) == b"first"


@pytest.mark.parametrize("code", ["ConditionalRequestConflict", "OperationAborted"])
def test_a_conflict_is_tried_again_at_once(behind: Behind, code: str) -> None:
    refusals = [Refusal(409, code)] * 2

    def conflict(request: Request) -> Refusal | None:
        return refusals.pop() if request.is_conditional and request.status is None and refusals else None

    assert put_new(behind(conflict), b"first") == b"first"
    assert not refusals


def test_a_conflict_without_an_end_is_infrastructure(behind: Behind) -> None:
    store = behind(lambda request: Refusal(409, "ConditionalRequestConflict") if request.is_conditional else None)
    assert failure_of(lambda: put_new(store, b"first")) is ErrorCode.STORAGE_UNAVAILABLE


def test_a_refused_write_is_told(behind: Behind) -> None:
    store = behind(lambda request: Refusal(403, "AccessDenied") if request.is_conditional else None)
    assert failure_of(lambda: put_new(store, b"first")) is ErrorCode.STORAGE_REFUSED


def test_who_may_not_list_is_told_so_before_the_first_job(behind: Behind) -> None:
    """Without that right S3 calls everything forbidden that is not there."""
    store = behind(lambda request: Refusal(403, "AccessDenied") if request.status == 404 else None)
    assert failure_of(store.check) is ErrorCode.STORAGE_REFUSED
    assert failure_of(lambda: store.read(KEY)) is ErrorCode.STORAGE_REFUSED


def test_an_object_that_breaks_off_is_not_taken_for_whole(behind: Behind, options: S3Options) -> None:
    put_new(S3Store(options), b"first")
    store = behind(lambda request: Refusal(200, "Half", withheld=10) if request.method == "GET" else None)
    assert failure_of(lambda: store.read(KEY)) is ErrorCode.STORAGE_UNAVAILABLE
