"""Tests that no reader sees a partial object, even if its writer is killed."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import InfrastructureError
from pipeline.storage import ObjectStore
from tests.conformance.storage.backends import StoreLocation
from tests.conformance.storage.test_promises import KEY, MakeFile, read
from tests.support import storage_writer

REPOSITORY = Path(__file__).resolve().parents[3]
VERSIONS = (b"a" * 3_000_000, b"b" * 2_000_000)
READERS = 3
OVERWRITES = 15


def test_readers_see_complete_objects_during_replacement(
    store: ObjectStore, make_file: MakeFile, tmp_path: Path
) -> None:
    sources = [make_file(content) for content in VERSIONS]
    done = threading.Event()
    store.put(KEY, sources[0], content_type="audio/wav")

    def overwrite() -> None:
        try:
            for turn in range(OVERWRITES):
                store.put(KEY, sources[(turn + 1) % 2], content_type="audio/wav")
        finally:
            done.set()

    def watch(reader: int) -> list[bytes]:
        seen: list[bytes] = []
        while not done.is_set() or not seen:
            seen.append(read(store, tmp_path / f"seen-{reader}"))
        return seen

    with ThreadPoolExecutor(READERS + 1) as pool:
        watching = [pool.submit(watch, reader) for reader in range(READERS)]
        pool.submit(overwrite).result()
        seen = [content for reader in watching for content in reader.result()]
    assert set(seen) <= set(VERSIONS)


@contextmanager
def writing(location: StoreLocation, source: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "tests.support.storage_writer", location.to_json(), str(source)]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def test_killed_writer_leaves_no_partial_object(location: StoreLocation, tmp_path: Path) -> None:
    with writing(location, tmp_path / "source") as process:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        assert "begun 3\n" in lines  # killed while it stores object 3
        process.kill()
        process.wait()
        assert list(lines) in ([], ["stored 3\n"], ["stored 3\n", "begun 4\n"])

    store = location.open()
    for number in range(3):
        assert read(store, tmp_path / "got", f"object-{number}") == storage_writer.content(number)
    for number in (3, 4):
        key = f"object-{number}"
        assert store.stat(key) is None or read(store, tmp_path / "got", key) == storage_writer.content(number)


def retry_infrastructure_errors(engine: str, call: Callable[[], object]) -> None:
    """Retry infrastructure errors of S3, as the consumer loop does.

    VersityGW prunes folders as well, and occasionally rejects a put because another key's folder is being removed.
    """
    for _ in range(20 if engine == "s3" else 0):
        try:
            call()
        except InfrastructureError:
            continue
        return
    call()


def test_concurrent_puts_and_deletes_do_not_interfere(
    location: StoreLocation, make_file: MakeFile, tmp_path: Path
) -> None:
    """Deleting prunes folders of the local store while puts of other keys create them."""
    source = make_file(b"stem")
    store = location.open()

    def work(worker: int) -> None:
        key = f"handoff/task/{worker}.wav"
        for _ in range(20):
            retry_infrastructure_errors(location.engine, lambda: store.put(key, source, content_type="audio/wav"))
            assert read(store, tmp_path / f"got-{worker}", key) == b"stem"
            retry_infrastructure_errors(location.engine, lambda: store.delete(key))
            assert store.stat(key) is None

    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(work, worker) for worker in range(4)]:
            future.result()
