"""Tests of the sweeper: what it removes, and what it keeps under every circumstance."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from config import load
from pipeline.storage import retention as retention_module
from pipeline.storage.local.store import LocalStore
from pipeline.storage.object_keys import handoff_key, outcome_key
from pipeline.storage.retention import Retention, Sweeper

HOUR, DAY = 3_600.0, 86_400.0
RETENTION = Retention(stems=DAY, outcomes=7 * DAY, leftovers=8 * DAY)
TASK = UUID("5f1c9f2e-0000-4000-8000-000000000000")
Put = Callable[[LocalStore, str, float], Path]
"""``put(store, key, age)`` stores an object of that age, s, and returns its file."""


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "stems")


@pytest.fixture
def handoff(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "handoff")


@pytest.fixture
def put(tmp_path: Path) -> Put:
    def store_aged(store: LocalStore, key: str, age: float) -> Path:
        source = tmp_path / "source"
        source.write_bytes(key.encode())
        store.put(key, source, content_type="audio/wav")
        path = store.path_of(key)
        assert path is not None
        make_old(path, age)
        return path

    return store_aged


def make_old(path: Path, age: float) -> None:
    os.utime(path, (time.time() - age,) * 2)


def keys_of(store: LocalStore) -> set[str]:
    return {found.key for found in store.objects()}


def test_objects_are_removed_at_their_age(store: LocalStore, handoff: LocalStore, put: Put) -> None:
    ages = {
        f"{TASK}_vocals.wav": (DAY, True),
        f"{TASK}_bass.wav": (DAY - HOUR, False),
        outcome_key(TASK, ""): (7 * DAY, True),
        outcome_key(TASK, "r0-17"): (7 * DAY - HOUR, False),
        f"staged/{TASK}_vocals-0.wav": (8 * DAY, True),
        f"staged/{TASK}_bass-0.wav": (8 * DAY - HOUR, False),
    }
    for key, (age, _) in ages.items():
        put(store, key, age + 60.0)
    assert Sweeper(store, handoff, RETENTION).sweep()
    assert keys_of(store) == {key for key, (_, is_removed) in ages.items() if not is_removed}


def test_files_of_others_are_kept(store: LocalStore, handoff: LocalStore, put: Put, tmp_path: Path) -> None:
    """OUTPUT_DIR may be a folder of the operator."""
    root = tmp_path / "stems"
    names = [
        "song.wav",
        "my songs/a.wav",
        f"old/{TASK}_vocals.wav",
        "outcomes/notes.txt",
        f"staged/{TASK}.wav",
        "README",
    ]
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"theirs")
        make_old(path, 1000 * DAY)
    (root / "empty folder").mkdir()
    (root / f"{TASK}_link.wav").symlink_to(root / "song.wav")
    Sweeper(store, handoff, RETENTION, patience=0.0).sweep()
    assert all((root / name).read_bytes() == b"theirs" for name in [*names, f"{TASK}_link.wav"])
    assert (root / "empty folder").is_dir()


@pytest.mark.parametrize("run", ["", "r0-17"])
def test_stems_in_transit_go_once_the_outcome_is_decided(
    store: LocalStore, handoff: LocalStore, put: Put, run: str
) -> None:
    """The uploader that decided it was killed before it removed them."""
    decided, undecided = handoff_key(TASK, run, "vocals", "0" * 64), handoff_key(uuid4(), run, "vocals", "0" * 64)
    for key in (decided, undecided):
        put(handoff, key, 0.0)
    store.put_new(outcome_key(TASK, run), b"{}", content_type="application/json")
    Sweeper(store, handoff, RETENTION).sweep()
    assert keys_of(handoff) == {undecided}


def test_stems_in_transit_of_an_unknown_task_go_after_a_long_time(
    store: LocalStore, handoff: LocalStore, put: Put, tmp_path: Path
) -> None:
    key = handoff_key(TASK, "", "vocals", "0" * 64)
    put(handoff, key, 8 * DAY + 60.0)
    # They may wait for this uploader, if none was running.
    Sweeper(store, handoff, RETENTION).sweep()
    assert keys_of(handoff) == {key}
    Sweeper(store, handoff, RETENTION, patience=0.0).sweep()
    assert keys_of(handoff) == set()
    assert not (tmp_path / "handoff" / "handoff").exists()


def test_empty_folders_go(store: LocalStore, handoff: LocalStore, tmp_path: Path) -> None:
    (tmp_path / "handoff" / "handoff" / str(TASK)).mkdir(parents=True)
    Sweeper(store, handoff, RETENTION).sweep()
    assert not (tmp_path / "handoff" / "handoff").exists()


def test_missing_folders_are_no_error(store: LocalStore, handoff: LocalStore) -> None:
    assert Sweeper(store, handoff, RETENTION).sweep()


def test_unlimited_retention_keeps_stems_and_outcomes(store: LocalStore, handoff: LocalStore, put: Put) -> None:
    kept = {f"{TASK}_vocals.wav", outcome_key(TASK, "")}
    for key in (*kept, f"staged/{TASK}_vocals-0.wav"):
        put(store, key, 10_000 * DAY)
    Sweeper(store, handoff, Retention(stems=None, outcomes=None, leftovers=8 * DAY)).sweep()
    assert keys_of(store) == kept


def test_a_sweep_is_bounded(store: LocalStore, handoff: LocalStore, put: Put, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention_module, "MAX_REMOVALS", 3)
    for number in range(5):
        put(store, f"{TASK}_{number}.wav", 2 * DAY)
    sweeper = Sweeper(store, handoff, RETENTION)
    assert not sweeper.sweep()
    assert len(keys_of(store)) == 2
    assert sweeper.sweep()
    assert keys_of(store) == set()


def test_an_object_that_is_replaced_meanwhile_is_kept(store: LocalStore, put: Put) -> None:
    key = f"{TASK}_vocals.wav"
    put(store, key, 2 * DAY)
    (found,) = store.objects()
    put(store, key, 0.0)
    assert not store.remove_unchanged(found)
    assert store.read(key) == key.encode()
    store.delete(key)
    assert not store.remove_unchanged(found)
    assert keys_of(store) == set()


def test_sweepers_and_writers_do_not_hurt_each_other(store: LocalStore, handoff: LocalStore, tmp_path: Path) -> None:
    """Each of 40 old objects is replaced, or stays old, while four uploaders sweep."""
    keys = [f"{TASK}_{number:02}.wav" for number in range(40)]
    source = tmp_path / "source"
    source.write_bytes(b"fresh")
    for key in keys:
        store.put(key, source, content_type="audio/wav")
        make_old(tmp_path / "stems" / key, 2 * DAY)
    together = threading.Barrier(5)

    def sweep() -> None:
        together.wait(20.0)
        Sweeper(LocalStore(tmp_path / "stems"), handoff, RETENTION).sweep()

    def replace_half() -> None:
        together.wait(20.0)
        for key in keys[::2]:
            store.put(key, source, content_type="audio/wav")

    with ThreadPoolExecutor(5) as pool:
        for done in [*(pool.submit(sweep) for _ in range(4)), pool.submit(replace_half)]:
            done.result()
    assert keys_of(store) == set(keys[::2])


def test_a_copy_is_as_old_as_the_copying(store: LocalStore, handoff: LocalStore, put: Put) -> None:
    """A stem can wait for days for an uploader that publishes it."""
    put(store, f"staged/{TASK}_vocals-0.wav", 6 * DAY)
    store.copy_from(store, f"staged/{TASK}_vocals-0.wav", f"{TASK}_vocals.wav", content_type="audio/wav")
    Sweeper(store, handoff, RETENTION).sweep()
    assert f"{TASK}_vocals.wav" in keys_of(store)


@pytest.mark.parametrize(
    ("variables", "stems", "outcomes"),
    [
        ({}, 7 * DAY, 7 * DAY),
        ({"RESULT_RETENTION": "1d"}, DAY, 7 * DAY),
        ({"RESULT_RETENTION": "30d"}, 30 * DAY, 30 * DAY),
        ({"RESULT_RETENTION": "1d", "EMBEDDED_RETENTION": "2d"}, DAY, 2 * DAY),
        ({"RESULT_RETENTION": "0"}, None, None),
        ({"S3_PUBLIC_DOMAIN": "stems.example.org", "S3_BUCKET_NAME": "stems"}, None, None),
        ({"S3_PUBLIC_DOMAIN": "stems.example.org", "S3_BUCKET_NAME": "stems", "RESULT_RETENTION": "1d"}, DAY, 7 * DAY),
    ],
)
def test_outcomes_are_kept_as_long_as_their_messages(
    variables: dict[str, str], stems: float | None, outcomes: float | None
) -> None:
    retention = Retention.from_settings(load(None, variables))
    assert (retention.stems, retention.outcomes) == (stems, outcomes)
    assert retention.leftovers > max(outcomes or 0.0, load(None, variables).state.retention_seconds)


def test_links_end_with_their_stems() -> None:
    assert load(None, {}).storage.link_ttl == DAY
    assert load(None, {"RESULT_RETENTION": "1h"}).storage.link_ttl == HOUR
    assert load(None, {"RESULT_RETENTION": "0"}).storage.link_ttl == DAY
