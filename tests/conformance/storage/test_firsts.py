"""Tests of ``put_new``: the first writer of an object wins, and all callers receive its content."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from pipeline.errors import ErrorCode, PermanentError
from pipeline.storage import ObjectStore
from tests.conformance.storage import first_writer
from tests.conformance.storage.backends import StoreLocation
from tests.conformance.storage.test_promises import MakeFile

REPOSITORY = Path(__file__).resolve().parents[3]
KEY = "outcomes/6f1c3e0a-8a55-4c43-a8f0-0a4a3e3f0d11.json"
CALLERS = 6


def put_new(store: ObjectStore, content: bytes, key: str = KEY) -> bytes:
    return store.put_new(key, content, content_type="application/json")


@pytest.mark.parametrize("content", [b"", b"\0\xff", b'{"state":"success"}', bytes(range(256)) * 2000])
def test_first_content_is_kept(location: StoreLocation, content: bytes) -> None:
    assert put_new(location.open(), content) == content
    other = location.open()
    assert put_new(other, b"something else") == content
    assert other.read(KEY) == content


def test_existing_object_is_not_replaced(store: ObjectStore, make_file: MakeFile) -> None:
    store.put(KEY, make_file(b"first"), content_type="application/json")
    assert put_new(store, b"second") == b"first"
    assert store.read(KEY) == b"first"


def test_missing_object_cannot_be_read(store: ObjectStore) -> None:
    for key in (KEY, "outcomes"):
        with pytest.raises(PermanentError) as caught:
            store.read(key)
        assert caught.value.code is ErrorCode.OBJECT_MISSING
        put_new(store, b"a neighbour", f"{KEY}.other")


def test_deleted_object_can_be_stored_again(store: ObjectStore) -> None:
    put_new(store, b"first")
    store.delete(KEY)
    assert put_new(store, b"second") == b"second"


def test_concurrent_callers_receive_the_same_content(location: StoreLocation) -> None:
    """The contents differ in length, so that a mixture is detected, and are large enough to be seen half written."""
    contents = [bytes([65 + caller]) * (3_000_000 + 1000 * caller) for caller in range(CALLERS)]
    stores = [location.open() for _ in range(CALLERS)]
    with ThreadPoolExecutor(CALLERS) as pool:
        for turn in range(4):
            key = f"outcomes/{turn}.json"
            together = threading.Barrier(CALLERS)

            def call(caller: int, key: str = key, together: threading.Barrier = together) -> bytes:
                together.wait(20.0)
                return put_new(stores[caller], contents[caller], key)

            (stored,) = set(pool.map(call, range(CALLERS)))
            assert stored in contents
            assert stores[0].read(key) == stored


@contextmanager
def writing(location: StoreLocation, name: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "tests.conformance.storage.first_writer", location.to_json(), name]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def winners_printed_by(process: subprocess.Popen[str]) -> list[str]:
    """Return the winner of each object, as far as the process has printed them."""
    assert process.stdout is not None
    return [line.strip() for line in process.stdout if line.endswith("\n")]


def test_processes_agree_even_if_one_is_killed(location: StoreLocation) -> None:
    with ExitStack() as stack:
        first, second = (stack.enter_context(writing(location, name)) for name in ("first", "second"))
        assert second.stdout is not None
        winners_of_second = [second.stdout.readline().strip()]
        second.kill()
        winners_of_second += winners_printed_by(second)
        winners = winners_printed_by(first)
        assert first.wait() == 0
    assert winners[: len(winners_of_second)] == winners_of_second
    store = location.open()
    for number in range(first_writer.OBJECTS):
        assert store.read(first_writer.key(number)) == first_writer.content(winners[number], number)
