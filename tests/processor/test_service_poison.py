"""A task that takes its child down is tried once more, then put aside; the tasks behind it are not held up."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipeline.errors import ErrorCode, ErrorKind
from pipeline.messages import SeparationResult, SeparationTask, from_message
from processor.ipc import ChildSettings
from processor.workers.supervisor import WorkerSupervisor
from tests.processor.pipeline_harness import DEAD, RESULTS, Way, open_way
from tests.processor.source_files import noise, write_pcm
from tests.processor.workers.children import scripted_command
from tests.support.source_server import SourceServer


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    with SourceServer() as source:
        source.serve_bytes("/song", write_pcm(tmp_path / "song.wav", noise(0.1)).read_bytes())
        yield source.url("/song")


@contextmanager
def way_with(folder: Path, *behaviours: str) -> Iterator[Way]:
    separation = WorkerSupervisor(
        ChildSettings(folder, "model.onnx", False, folder), scripted_command(folder, *behaviours)
    )
    try:
        with open_way(folder, separation) as way:
            yield way
    finally:
        separation.close()


def test_a_second_try_may_succeed(tmp_path: Path, url: str) -> None:
    with way_with(tmp_path, "die_in_job", "work") as way:
        assert way.separate(url).status == "success"


def test_a_job_that_kills_twice_is_put_aside(tmp_path: Path, url: str) -> None:
    """And takes no blame to the job that is prepared beside it."""
    with way_with(tmp_path, "die_for_deadly_model_in_job") as way:
        bad, good = way.send(url, model="deadly"), way.send(url)
        results = {result.task_uuid: result for result in (read(way) for _ in range(2))}
        dead = way.next_message(DEAD)

    error = results[bad].error
    assert error is not None
    assert (error.kind, error.code, error.message) == (
        ErrorKind.POISON,
        ErrorCode.WORKER_DIED,
        "the separation process was ended by signal 9",
    )
    assert from_message(SeparationTask, dead).task_uuid == bad
    assert results[good].status == "success"


def read(way: Way) -> SeparationResult:
    return from_message(SeparationResult, way.next_message(RESULTS))


def test_a_child_that_cannot_start_spends_no_attempt(tmp_path: Path, url: str) -> None:
    with way_with(tmp_path, *["exit_in_setup"] * 5, "work") as way:
        assert way.separate(url).status == "success"


def test_an_outage_of_the_model_fails_no_job(tmp_path: Path, url: str) -> None:
    with way_with(tmp_path, "refuse_setup", "refuse_setup", "refuse_setup", "work") as way:
        assert way.separate(url).status == "success"
