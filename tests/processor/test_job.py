"""Several lanes share one processor: what goes on beside what, what is done again and what is not, what is left behind.

What a cancel does is in ``test_job_cancel``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from pipeline.errors import (
    CancelledError,
    ErrorCode,
    InfrastructureError,
    PermanentError,
    PoisonError,
    TransientError,
)
from pipeline.messages import SeparationResult, TaskEvent, TaskState, from_message
from pipeline.transport.embedded.transport import EmbeddedTransport
from processor.job import JobLimits
from tests.processor.pipeline_harness import EVENTS, LIMITS
from tests.processor.workbench import Bench, open_bench, result_of
from tests.processor.worker_threads import DEADLINE, eventually
from tests.processor.workers.children.scripted import content_of
from tests.support.source_server import answer, content, sequence

Opener = Callable[..., Bench]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Opener]:
    with ExitStack() as stack:
        yield lambda *behaviours, **options: stack.enter_context(open_bench(tmp_path, *behaviours, **options))


# --- what goes on beside what ---


def test_while_one_separates_the_next_is_fetched_and_decoded(bench: Opener) -> None:
    at = bench("finish_when_released_in_job")
    first, second = at.job(), at.job()
    one = first.handle()
    at.wait_for_line(1)
    two = second.handle()
    at.wait_for_line(2)
    assert at.source.connections == 2
    at.tell(1)
    result_of(one)
    at.tell(2)
    assert result_of(two).timings["wait"] > 0
    assert first.stems() == {name: content_of(name, 1) for name in ("vocals", "instrumental")}
    assert second.stems() == {name: content_of(name, 2) for name in ("vocals", "instrumental")}


def test_the_next_separation_does_not_wait_for_the_hand_off(bench: Opener) -> None:
    at = bench("work", silent_store=True)
    jobs = [at.job(), at.job()]
    handling = [job.handle() for job in jobs]
    eventually(lambda: at.store.connections >= len(jobs))
    assert not any(lane.done() for lane in handling)
    for job, lane in zip(jobs, handling, strict=True):
        job.context.cancel.cancel(ErrorCode.SHUTTING_DOWN)
        assert isinstance(lane.exception(DEADLINE), CancelledError)


def test_a_death_is_not_the_fault_of_the_job_that_waits(bench: Opener) -> None:
    at = bench("die_for_deadly_model_in_job")
    deadly, harmless = at.job(model="deadly"), at.job()
    one, two = deadly.handle(), harmless.handle()
    assert isinstance(one.exception(DEADLINE), PoisonError)
    assert result_of(two).status == "success"


def test_states_are_told_as_they_come(bench: Opener) -> None:
    at = bench("work")
    at.job().separate()
    transport = EmbeddedTransport(at.root / "broker.sqlite")
    states = [re.search(rb'"status":"(\w+)"', stored.message.value) for stored in transport.browse(EVENTS)]
    transport.close()
    told = [state[1].decode() for state in states if state]
    assert list(dict.fromkeys(told)) == [TaskState.DOWNLOADING, TaskState.SEPARATING]


def test_the_pace_of_a_download_is_told(bench: Opener) -> None:
    at = bench("work")
    at.job().separate()
    transport = EmbeddedTransport(at.root / "broker.sqlite")
    events = [from_message(TaskEvent, stored.message) for stored in transport.browse(EVENTS)]
    transport.close()
    (end,) = (event for event in events if event.status is TaskState.DOWNLOADING and event.progress == 1.0)
    assert end.bytes_per_second is not None
    assert end.bytes_per_second > 0
    assert end.seconds_left == 0.0
    assert {event.bytes_per_second for event in events if event.status is TaskState.SEPARATING} <= {None}


# --- what is not audio ---


def test_what_came_in_place_of_audio_is_refused_before_it_waits_for_room(bench: Opener) -> None:
    """Nobody is kept from the disk, or from the device, by a web page, whatever the server calls it."""
    at = bench("finish_when_released_in_job", prefetch_bytes=LIMITS.download.max_bytes + 10**6)
    handling = [at.job().handle()]
    at.wait_for_line(1)
    handling.append(at.job().handle())
    at.wait_for_line(2)
    handling.append(at.job().handle())
    at.source.wait_for_requests(3)  # it waits for room to be decoded in
    at.source.add("/page", content(b"<!DOCTYPE html><title>Sign in</title>", "audio/mpeg"))
    error = at.job("/page").failure()
    assert isinstance(error, PermanentError)
    assert error.code is ErrorCode.SOURCE_IS_WEB_PAGE
    for number in (1, 2, 3):
        at.tell(number)
    assert [result_of(lane).status for lane in handling] == ["success"] * 3


def test_a_song_that_the_server_calls_something_else_is_separated(bench: Opener) -> None:
    at = bench("work")
    at.source.serve_bytes("/song.mp3", (at.root / "song.wav").read_bytes(), "text/html")
    with capture_logs() as lines:
        result = at.job("/song.mp3").separate()
    assert (result.status, result.degraded) == ("success", ())
    assert [line["hint"] for line in lines if line["event"] == "source_mislabelled"] == ["mp3", "text/html"]


# --- the disk of those who wait ---


def test_waiting_jobs_keep_to_their_budget(bench: Opener) -> None:
    """The one that is next is prepared whatever the budget; the one behind it is not even fetched."""
    at = bench("finish_when_released_in_job", prefetch_bytes=1)
    first, second, third = at.job(), at.job(), at.job()
    handling = [first.handle()]
    at.wait_for_line(1)
    handling.append(second.handle())
    at.wait_for_line(2)
    handling.append(third.handle())
    eventually(lambda: len(at.equipment.budget._line) == 3)
    assert at.source.connections == 2
    assert at.equipment.budget.held == sum(path.stat().st_size for path in at.root.rglob("mixture.wav")) / 2
    at.tell(1)
    at.source.wait_for_requests(3)
    for number in (2, 3):
        at.tell(number)
    assert [result_of(lane).status for lane in handling] == ["success"] * 3


def test_waiting_jobs_count_with_what_they_have_and_not_with_what_they_might(bench: Opener) -> None:
    """There is room for what one download might bring beside a few small files, and for no decoding."""
    at = bench("finish_when_released_in_job", prefetch_bytes=LIMITS.download.max_bytes + 10**6)
    handling = [at.job().handle()]
    at.wait_for_line(1)
    handling.append(at.job().handle())
    at.wait_for_line(2)
    handling += [at.job().handle() for _ in range(2)]
    at.source.wait_for_requests(4)
    assert len(at.equipment.pool.dispatcher._tickets) == 2
    for number in range(1, 5):
        at.tell(number)
    assert [result_of(lane).status for lane in handling] == ["success"] * 4


# --- what is done again, and what is not ---


def test_a_hand_off_that_failed_is_all_that_is_done_again(bench: Opener) -> None:
    at = bench("work")
    (at.root / "handoff").write_text("in the way of the folder")
    job = at.job()
    for _ in range(3):
        error = job.failure()
        assert isinstance(error, InfrastructureError)
        assert error.code is ErrorCode.STORAGE_UNAVAILABLE
    assert len(at.work_folders()) == 1
    (at.root / "handoff").unlink()
    result = job.separate()
    assert at.source.connections == 1
    assert job.stems() == {name: content_of(name, 1) for name in ("vocals", "instrumental")}
    assert [stem.name for stem in result.stems] == ["vocals", "instrumental"]
    job.context.clear()
    assert at.work_folders() == set()


def test_a_job_that_found_no_device_is_not_fetched_again(bench: Opener) -> None:
    at = bench("exit_in_setup", "refuse_setup", "work")
    job = at.job()
    assert [job.failure().code for _ in range(2)] == [ErrorCode.WORKER_DIED, ErrorCode.MODEL_UNAVAILABLE]
    assert job.separate().status == "success"
    assert at.source.connections == 1


def test_a_job_that_has_lost_its_files_begins_anew(bench: Opener) -> None:
    """As the loop has it when the disk is full."""
    at = bench("exit_in_setup", "work")
    job = at.job()
    assert isinstance(job.failure(), InfrastructureError)
    before = at.work_folders()
    job.context.clear()
    assert at.work_folders() == set()
    assert job.separate().status == "success"
    assert at.work_folders().isdisjoint(before)
    assert at.source.connections == 2


def test_only_the_stems_lie_about_while_they_wait_for_their_hand_off(bench: Opener) -> None:
    at = bench("work")
    (at.root / "handoff").write_text("in the way of the folder")
    job = at.job()
    job.failure()
    (folder,) = at.work_folders()
    files = {path.name for path in (at.equipment.workdir.path / folder).iterdir()}
    assert files == {"vocals.wav", "instrumental.wav"}
    assert at.equipment.budget.held == 0


def test_a_failed_job_is_reported_with_its_task(bench: Opener) -> None:
    at = bench("work")
    at.source.add("/song", sequence(answer(503), content(b"x")))
    job = at.job(metadata={"ours": 1})
    error = job.failure()
    assert isinstance(error, TransientError)
    outcome = at.processor.on_failure(job.task, error)
    (message,) = outcome.outputs
    result = from_message(SeparationResult, message)
    assert (outcome.end, result.status, result.task) == ("failed", "failed", job.task)
    assert result.error is not None
    assert result.error.code is ErrorCode.SOURCE_UNAVAILABLE


# --- how long a separation may take ---


@pytest.mark.parametrize(
    ("duration", "timeout"), [(0.0, 300.0), (1.0, 320.0), (180.0, 3900.0), (345.0, 7200.0), (3600.0, 7200.0)]
)
def test_the_deadline_grows_with_the_song_up_to_the_longest(duration: float, timeout: float) -> None:
    limits = JobLimits(LIMITS.download, 3600.0, job_timeout=7200.0, job_timeout_base=300.0, job_timeout_factor=20.0)
    assert limits.separation_timeout(duration) == timeout


def test_a_separation_that_hangs_is_ended_at_the_songs_own_deadline(bench: Opener) -> None:
    """The song is 0.2 s long."""
    limits = replace(LIMITS, job_timeout=DEADLINE, job_timeout_base=0.5, job_timeout_factor=2.0)
    at = bench("stop_in_job", "work", limits=limits)
    job = at.job()
    error = job.failure()
    assert isinstance(error, PoisonError)
    assert (error.code, error.message) == (ErrorCode.WORKER_TIMEOUT, "the separation took longer than 0.9 s")
    assert at.job().separate().status == "success"
