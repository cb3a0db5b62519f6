"""A task that crashes its child is retried once, then quarantined; other tasks are not blocked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipeline.errors import ErrorCode, ErrorKind
from pipeline.messages import SeparationResult, SeparationTask, from_message
from processor.workers.supervisor import WorkerSupervisor
from tests.processor.child_settings import child_settings
from tests.processor.pipeline_harness import DEAD, RESULTS, RunningProcessor, running_processor
from tests.processor.source_files import noise, write_pcm
from tests.processor.workers.children import scripted_command
from tests.support.source_server import SourceServer


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    with SourceServer() as source:
        source.serve_bytes("/song", write_pcm(tmp_path / "song.wav", noise(0.1)).read_bytes())
        yield source.url("/song")


@contextmanager
def scripted_processor(folder: Path, *behaviours: str) -> Iterator[RunningProcessor]:
    supervisor = WorkerSupervisor(child_settings(folder, "model.onnx", folder), scripted_command(folder, *behaviours))
    try:
        with running_processor(folder, supervisor) as processor:
            yield processor
    finally:
        supervisor.close()


def test_second_try_may_succeed(tmp_path: Path, url: str) -> None:
    with scripted_processor(tmp_path, "die_in_job", "work") as processor:
        assert processor.separate(url).status == "success"


def test_job_that_crashes_two_children_is_quarantined(tmp_path: Path, url: str) -> None:
    """The crash does not count against the job that is prepared at the same time."""
    with scripted_processor(tmp_path, "die_for_deadly_model_in_job") as processor:
        bad, good = processor.send(url, model="deadly"), processor.send(url)
        results = {result.task_uuid: result for result in (read(processor) for _ in range(2))}
        dead = processor.next_message(DEAD)

    error = results[bad].error
    assert error is not None
    assert (error.kind, error.code, error.message) == (
        ErrorKind.POISON,
        ErrorCode.WORKER_DIED,
        "the separation process was ended by signal 9",
    )
    assert from_message(SeparationTask, dead).task_uuid == bad
    assert results[good].status == "success"


def read(processor: RunningProcessor) -> SeparationResult:
    return from_message(SeparationResult, processor.next_message(RESULTS))


def test_child_that_cannot_start_spends_no_attempt(tmp_path: Path, url: str) -> None:
    with scripted_processor(tmp_path, *["exit_in_setup"] * 5, "work") as processor:
        assert processor.separate(url).status == "success"


def test_unavailable_model_fails_no_job(tmp_path: Path, url: str) -> None:
    with scripted_processor(tmp_path, "refuse_setup", "refuse_setup", "refuse_setup", "work") as processor:
        assert processor.separate(url).status == "success"
