"""A job that is cancelled stops wherever it is, at once, and leaves nothing behind; the next one finds all in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from pipeline.consuming.consumer import Outcome
from pipeline.errors import CancelledError, ErrorCode
from processor.workers import supervisor as separation_module
from tests.processor.workbench import Bench, Job, open_bench, result_of
from tests.processor.worker_threads import DEADLINE, eventually
from tests.support.source_server import silence, stall_after


@dataclass(frozen=True)
class Stage:
    """Where a job may be when it is cancelled."""

    behaviours: tuple[str, ...]
    is_there: Callable[[Bench], object]
    """Returns once the job is at this stage."""
    path: str = "/song"
    others: int = 0
    """Jobs that came before it."""
    options: dict[str, Any] = field(default_factory=dict)


def begun(at: Bench) -> None:
    """The child has the job in hand."""
    eventually(lambda: (at.root / "begun-1").exists())


STAGES = {
    "no answer": Stage(("work",), lambda at: at.source.wait_for_requests(1), "/silent"),
    "fetching": Stage(("work",), lambda at: at.source.wait_for_requests(1), "/stalls"),
    "waiting for room on the disk": Stage(
        ("finish_when_released_in_job",),
        lambda at: eventually(lambda: len(at.equipment.budget._line) == 3),
        others=2,
        options={"prefetch_bytes": 1},
    ),
    "waiting for the device": Stage(("finish_when_released_in_job",), lambda at: at.wait_for_line(2), others=1),
    "waiting for the model": Stage(("get_ready_when_released",), lambda at: at.wait_for_line(1)),
    "loading its own model": Stage(("hang_while_loading", "work"), begun),
    "separating": Stage(("finish_when_released_in_job",), begun),
    "separating, deaf": Stage(("ignore_cancel_in_job", "work"), begun),
    "handing off": Stage(
        ("work",), lambda at: eventually(lambda: at.store.connections > 0), options={"silent_store": True}
    ),
}


@contextmanager
def brought_to(stage: Stage, root: Path) -> Iterator[tuple[Bench, list[Future[Outcome]], Job, Future[Outcome]]]:
    """The bench, those that came before, the job, its handling."""
    with open_bench(root, *stage.behaviours, **stage.options) as at:
        at.source.add("/silent", silence)
        at.source.add("/stalls", stall_after((root / "song.wav").read_bytes(), 10_000))
        before: list[Future[Outcome]] = []
        for number in range(1, stage.others + 1):
            before.append(at.job().handle())
            at.wait_for_line(number)  # or another one might be first
        job = at.job(stage.path)
        handling = job.handle()
        stage.is_there(at)
        assert not handling.done()
        yield at, before, job, handling


def may_finish(at: Bench) -> None:
    (at.root / "go").touch()
    for number in range(1, 10):
        at.tell(number)


@pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES)
def test_a_job_that_went_to_another_member_is_let_go(
    tmp_path: Path, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(separation_module, "CANCEL_GRACE", 0.3)
    with brought_to(stage, tmp_path) as (at, before, job, handling):
        job.context.cancel.cancel(ErrorCode.DELIVERY_LOST)
        error = handling.exception(DEADLINE)
        assert isinstance(error, CancelledError)
        assert error.code is ErrorCode.DELIVERY_LOST
        job.context.clear()
        assert len(at.work_folders()) == len(before)
        assert len(at.equipment.budget._line) == len(before)
        may_finish(at)
        for other in before:
            result_of(other)
        if not stage.options.get("silent_store"):
            assert at.job().separate().status == "success"


@pytest.mark.parametrize("name", ["waiting for room on the disk", "waiting for the device"])
def test_when_the_service_stops_a_job_that_would_have_to_wait_is_given_back(tmp_path: Path, name: str) -> None:
    with brought_to(STAGES[name], tmp_path) as (at, before, job, handling):
        at.stop.request("test")
        error = handling.exception(DEADLINE)
        assert isinstance(error, CancelledError)
        assert error.code is ErrorCode.SHUTTING_DOWN
        assert not job.context.cancel.is_set()
        # So is what waited before it, while the one at the device may finish.
        assert not before[0].done()
        assert [type(other.exception(DEADLINE)) for other in before[1:]] == [CancelledError] * (len(before) - 1)
        may_finish(at)
        result_of(before[0])


@pytest.mark.parametrize("name", ["waiting for the model", "separating"])
def test_when_the_service_stops_a_job_at_the_device_may_finish(tmp_path: Path, name: str) -> None:
    with brought_to(STAGES[name], tmp_path) as (at, _, _, handling):
        at.stop.request("test")
        may_finish(at)
        result_of(handling)
