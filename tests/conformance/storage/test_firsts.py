"""Of several that want to say what an object is, the first is heard, and all of them are told what it said."""

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
from tests.conformance.storage.backends import Place
from tests.conformance.storage.test_promises import MakeFile

REPOSITORY = Path(__file__).resolve().parents[3]
KEY = "outcomes/6f1c3e0a-8a55-4c43-a8f0-0a4a3e3f0d11.json"
CALLERS = 6


def put_new(store: ObjectStore, content: bytes, key: str = KEY) -> bytes:
    return store.put_new(key, content, content_type="application/json")


@pytest.mark.parametrize("content", [b"", b"\0\xff", b'{"state":"success"}', bytes(range(256)) * 2000])
def test_the_first_content_stays(place: Place, content: bytes) -> None:
    assert put_new(place.open(), content) == content
    other = place.open()
    assert put_new(other, b"something else") == content
    assert other.read(KEY) == content


def test_what_was_put_before_is_not_replaced(store: ObjectStore, make_file: MakeFile) -> None:
    store.put(KEY, make_file(b"first"), content_type="application/json")
    assert put_new(store, b"second") == b"first"
    assert store.read(KEY) == b"first"


def test_what_is_not_there_cannot_be_read(store: ObjectStore) -> None:
    for key in (KEY, "outcomes"):
        with pytest.raises(PermanentError) as caught:
            store.read(key)
        assert caught.value.code is ErrorCode.OBJECT_MISSING
        put_new(store, b"a neighbour", f"{KEY}.other")


def test_what_was_deleted_can_be_new_again(store: ObjectStore) -> None:
    put_new(store, b"first")
    store.delete(KEY)
    assert put_new(store, b"second") == b"second"


def test_of_several_at_once_one_is_heard_by_all(place: Place) -> None:
    """Contents of different lengths, so that a mixture would be noticed, and long enough to be seen half written."""
    contents = [bytes([65 + caller]) * (3_000_000 + 1000 * caller) for caller in range(CALLERS)]
    stores = [place.open() for _ in range(CALLERS)]
    with ThreadPoolExecutor(CALLERS) as pool:
        for turn in range(4):
            key = f"outcomes/{turn}.json"
            together = threading.Barrier(CALLERS)

            def call(caller: int, key: str = key, together: threading.Barrier = together) -> bytes:
                together.wait(20.0)
                return put_new(stores[caller], contents[caller], key)

            (heard,) = set(pool.map(call, range(CALLERS)))
            assert heard in contents
            assert stores[0].read(key) == heard


@contextmanager
def writing(place: Place, name: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "tests.conformance.storage.first_writer", place.to_json(), name]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def told_by(process: subprocess.Popen[str]) -> list[str]:
    """Who was the first at each object, as far as the process came to tell."""
    assert process.stdout is not None
    return [line.strip() for line in process.stdout if line.endswith("\n")]


def test_processes_agree_even_if_one_is_killed(place: Place) -> None:
    with ExitStack() as stack:
        first, second = (stack.enter_context(writing(place, name)) for name in ("first", "second"))
        assert second.stdout is not None
        told_by_second = [second.stdout.readline().strip()]
        second.kill()
        told_by_second += told_by(second)
        told = told_by(first)
        assert first.wait() == 0
    assert told[: len(told_by_second)] == told_by_second
    store = place.open()
    for number in range(first_writer.OBJECTS):
        assert store.read(first_writer.key(number)) == first_writer.content(told[number], number)
