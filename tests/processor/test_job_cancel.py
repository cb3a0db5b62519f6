"""A cancelled job stops at once at any stage, leaves no files, and does not disturb the next one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from pipeline.consuming.handler import Outcome
from pipeline.errors import CancelledError, ErrorCode
from processor.workers import supervisor as supervisor_module
from tests.processor.workbench import Bench, Job, open_bench, result_of
from tests.processor.worker_threads import DEADLINE, eventually
from tests.support.source_server import silence, stall_after


@dataclass(frozen=True)
class Stage:
    """A stage at which a job may be cancelled."""

    behaviours: tuple[str, ...]
    wait_until_reached: Callable[[Bench], object]
    """Returns once the job is at this stage."""
    path: str = "/song"
    others: int = 0
    """Number of jobs before it."""
    options: dict[str, Any] = field(default_factory=dict)


def begun(at: Bench) -> None:
    """Wait until the child works on the job."""
    eventually(lambda: (at.root / "begun-1").exists())


STAGES = {
    "no answer": Stage(("work",), lambda at: at.source.wait_for_requests(1), "/silent"),
    "fetching": Stage(("work",), lambda at: at.source.wait_for_requests(1), "/stalls"),
    "waiting for disk space": Stage(
        ("finish_when_released_in_job",),
        lambda at: eventually(lambda: len(at.handler.budget._queue) == 3),
        others=2,
        options={"prefetch_bytes": 1},
    ),
    "waiting for the device": Stage(("finish_when_released_in_job",), lambda at: at.wait_for_queue(2), others=1),
    "waiting for the model": Stage(("get_ready_when_released",), lambda at: at.wait_for_queue(1)),
    "loading its own model": Stage(("hang_while_loading", "work"), begun),
    "separating": Stage(("finish_when_released_in_job",), begun),
    "separating without checking for messages": Stage(("ignore_cancel_in_job", "work"), begun),
    "handing off": Stage(
        ("work",), lambda at: eventually(lambda: at.store.connections > 0), options={"silent_store": True}
    ),
}


@contextmanager
def job_at(stage: Stage, root: Path) -> Iterator[tuple[Bench, list[Future[Outcome]], Job, Future[Outcome]]]:
    """Bring a job to the stage. Yields the bench, the futures of the jobs before it, the job, and its future."""
    with open_bench(root, *stage.behaviours, **stage.options) as at:
        at.source.add("/silent", silence)
        at.source.add("/stalls", stall_after((root / "song.wav").read_bytes(), 10_000))
        before: list[Future[Outcome]] = []
        for number in range(1, stage.others + 1):
            before.append(at.job().handle())
            at.wait_for_queue(number)  # keeps the order of the jobs
        job = at.job(stage.path)
        handling = job.handle()
        stage.wait_until_reached(at)
        assert not handling.done()
        yield at, before, job, handling


def allow_all_to_finish(at: Bench) -> None:
    (at.root / "go").touch()
    for number in range(1, 10):
        at.allow_to_finish(number)


@pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES)
def test_lost_job_stops_and_is_cleaned_up(tmp_path: Path, stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor_module, "CANCEL_GRACE", 0.3)
    with job_at(stage, tmp_path) as (at, before, job, handling):
        job.context.cancel.cancel(ErrorCode.DELIVERY_LOST)
        error = handling.exception(DEADLINE)
        assert isinstance(error, CancelledError)
        assert error.code is ErrorCode.DELIVERY_LOST
        job.close()
        assert len(at.work_folders()) == len(before)
        assert len(at.handler.budget._queue) == len(before)
        allow_all_to_finish(at)
        for other in before:
            result_of(other)
        if not stage.options.get("silent_store"):
            assert at.job().separate().status == "success"


@pytest.mark.parametrize("name", ["waiting for disk space", "waiting for the device"])
def test_waiting_job_is_released_during_a_shutdown(tmp_path: Path, name: str) -> None:
    with job_at(STAGES[name], tmp_path) as (at, before, job, handling):
        at.stop.request("test")
        error = handling.exception(DEADLINE)
        assert isinstance(error, CancelledError)
        assert error.code is ErrorCode.SHUTTING_DOWN
        assert not job.context.cancel.is_set()
        # The jobs that waited before it are released as well, while the one at the device may finish.
        assert not before[0].done()
        assert [type(other.exception(DEADLINE)) for other in before[1:]] == [CancelledError] * (len(before) - 1)
        allow_all_to_finish(at)
        result_of(before[0])


@pytest.mark.parametrize("name", ["waiting for the model", "separating"])
def test_job_at_the_device_may_finish_during_a_shutdown(tmp_path: Path, name: str) -> None:
    with job_at(STAGES[name], tmp_path) as (at, _, _, handling):
        at.stop.request("test")
        allow_all_to_finish(at)
        result_of(handling)
