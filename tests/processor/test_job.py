"""Jobs of one processor: concurrency, retries, limits on the disk, timeouts. Cancellation is in ``test_job_cancel``."""

from __future__ import annotations

import re
import shutil
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
from pipeline.storage import StoredObject
from pipeline.storage.local.store import LocalStore
from pipeline.transport.embedded.transport import EmbeddedTransport
from processor.download_lanes import DownloadLanes
from processor.job import JobLimits
from tests.processor.pipeline_harness import EVENTS, LIMITS
from tests.processor.workbench import Bench, open_bench, result_of
from tests.processor.worker_threads import DEADLINE, eventually
from tests.processor.workers.children.scripted import content_of
from tests.support.source_server import answer, content, drip, sequence

Opener = Callable[..., Bench]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Opener]:
    with ExitStack() as stack:
        yield lambda *behaviours, **options: stack.enter_context(open_bench(tmp_path, *behaviours, **options))


# --- concurrency ---


def test_next_job_is_prepared_during_a_separation(bench: Opener) -> None:
    at = bench("finish_when_released_in_job")
    first, second = at.job(), at.job()
    one = first.handle()
    at.wait_for_queue(1)
    two = second.handle()
    at.wait_for_queue(2)
    assert at.source.connections == 2
    at.allow_to_finish(1)
    result_of(one)
    at.allow_to_finish(2)
    assert result_of(two).timings["wait"] > 0
    assert first.stems() == {name: content_of(name, 1) for name in ("vocals", "instrumental")}
    assert second.stems() == {name: content_of(name, 2) for name in ("vocals", "instrumental")}


def test_next_separation_does_not_wait_for_the_hand_off(bench: Opener) -> None:
    at = bench("work", silent_store=True)
    jobs = [at.job(), at.job()]
    handling = [job.handle() for job in jobs]
    eventually(lambda: at.store.connections >= len(jobs))
    assert not any(future.done() for future in handling)
    for job, future in zip(jobs, handling, strict=True):
        job.context.cancel.cancel(ErrorCode.SHUTTING_DOWN)
        assert isinstance(future.exception(DEADLINE), CancelledError)


def test_crash_does_not_count_against_a_waiting_job(bench: Opener) -> None:
    at = bench("die_for_deadly_model_in_job")
    deadly, harmless = at.job(model="deadly"), at.job()
    one, two = deadly.handle(), harmless.handle()
    assert isinstance(one.exception(DEADLINE), PoisonError)
    assert result_of(two).status == "success"


def test_states_are_sent_in_order(bench: Opener) -> None:
    at = bench("work")
    at.job().separate()
    transport = EmbeddedTransport(at.root / "broker.sqlite")
    states = [re.search(rb'"status":"(\w+)"', stored.message.value) for stored in transport.browse(EVENTS)]
    transport.close()
    names = [state[1].decode() for state in states if state]
    assert list(dict.fromkeys(names)) == [TaskState.DOWNLOADING, TaskState.SEPARATING]


def test_rate_of_a_download_is_sent(bench: Opener) -> None:
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


# --- files that are not audio ---


def test_file_that_is_not_audio_is_rejected_before_it_waits_for_disk_space(bench: Opener) -> None:
    """A web page blocks no job at the disk or at the device, whatever content type the server declares."""
    at = bench("finish_when_released_in_job", prefetch_bytes=LIMITS.download.max_bytes + 10**6)
    handling = [at.job().handle()]
    at.wait_for_queue(1)
    handling.append(at.job().handle())
    at.wait_for_queue(2)
    handling.append(at.job().handle())
    at.source.wait_for_requests(3)  # it waits for disk space to decode into
    at.source.add("/page", content(b"<!DOCTYPE html><title>Sign in</title>", "audio/mpeg"))
    error = at.job("/page").failure()
    assert isinstance(error, PermanentError)
    assert error.code is ErrorCode.SOURCE_IS_WEB_PAGE
    for number in (1, 2, 3):
        at.allow_to_finish(number)
    assert [result_of(future).status for future in handling] == ["success"] * 3


def test_song_with_a_wrong_content_type_is_separated(bench: Opener) -> None:
    at = bench("work")
    at.source.serve_bytes("/song.mp3", (at.root / "song.wav").read_bytes(), "text/html")
    with capture_logs() as lines:
        result = at.job("/song.mp3").separate()
    assert (result.status, result.degraded) == ("success", ())
    assert [line["hint"] for line in lines if line["event"] == "source_mislabelled"] == ["mp3", "text/html"]


# --- disk space of waiting jobs ---


def test_waiting_jobs_keep_to_the_budget(bench: Opener) -> None:
    """The next job is prepared with any budget; the one after it is not even fetched."""
    at = bench("finish_when_released_in_job", prefetch_bytes=1)
    first, second, third = at.job(), at.job(), at.job()
    handling = [first.handle()]
    at.wait_for_queue(1)
    handling.append(second.handle())
    at.wait_for_queue(2)
    handling.append(third.handle())
    eventually(lambda: len(at.handler.budget._queue) == 3)
    assert at.source.connections == 2
    assert at.handler.budget.held == sum(path.stat().st_size for path in at.root.rglob("mixture.wav")) / 2
    at.allow_to_finish(1)
    at.source.wait_for_requests(3)
    for number in (2, 3):
        at.allow_to_finish(number)
    assert [result_of(future).status for future in handling] == ["success"] * 3


def test_waiting_jobs_count_with_the_actual_size_of_their_files(bench: Opener) -> None:
    """The budget admits the maximum of one download beside a few small files, and no decoding."""
    at = bench("finish_when_released_in_job", prefetch_bytes=LIMITS.download.max_bytes + 10**6)
    handling = [at.job().handle()]
    at.wait_for_queue(1)
    handling.append(at.job().handle())
    at.wait_for_queue(2)
    handling += [at.job().handle() for _ in range(2)]
    at.source.wait_for_requests(4)
    assert len(at.handler.pool.dispatcher._tickets) == 2
    for number in range(1, 5):
        at.allow_to_finish(number)
    assert [result_of(future).status for future in handling] == ["success"] * 4


# --- retries ---


def test_retry_after_a_failed_hand_off_repeats_only_the_hand_off(bench: Opener) -> None:
    at = bench("work")
    (at.root / "handoff").write_text("a file in place of the folder")
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
    job.close()
    assert at.work_folders() == set()


class FullAfterOneStem(LocalStore):
    """A hand-off store that is full at the second of all puts."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.puts: list[str] = []

    def put(self, key: str, source: Path, *, content_type: str) -> StoredObject:
        self.puts.append(key)
        if len(self.puts) == 2:
            raise InfrastructureError("the store is full", code=ErrorCode.STORAGE_UNAVAILABLE)
        return super().put(key, source, content_type=content_type)


def test_hand_off_that_fails_at_the_second_stem_goes_on_with_it(bench: Opener) -> None:
    at = bench("work")
    store = FullAfterOneStem(at.root / "handoff")
    job = replace(at, handler=replace(at.handler, handoff=store)).job()
    assert job.failure().code is ErrorCode.STORAGE_UNAVAILABLE
    result = job.separate()
    assert [stem.name for stem in result.stems] == ["vocals", "instrumental"]
    vocals, instrumental = (stem.key for stem in result.stems)
    assert store.puts == [vocals, instrumental, instrumental]


def test_source_that_is_too_slow_to_finish_in_time_ends_early(bench: Opener) -> None:
    at = bench(
        "work",
        limits=replace(LIMITS, download=replace(LIMITS.download, progress_interval=0.02)),
        lanes=DownloadLanes(2, timeout=10_000.0, grace=0.1),
    )
    at.source.add("/slow", drip(bytes(5_000_000), interval=0.01))
    error = at.job("/slow").failure()
    assert (type(error), error.code) == (TransientError, ErrorCode.SOURCE_TIMEOUT)
    assert at.job().separate().status == "success"


def test_job_without_a_device_is_not_fetched_again(bench: Opener) -> None:
    at = bench("exit_in_setup", "refuse_setup", "work")
    job = at.job()
    assert [job.failure().code for _ in range(2)] == [ErrorCode.WORKER_DIED, ErrorCode.MODEL_UNAVAILABLE]
    assert job.separate().status == "success"
    assert at.source.connections == 1


def test_job_begins_anew_after_its_run_was_closed(bench: Opener) -> None:
    """The consumer loop closes the run when the disk is full."""
    at = bench("exit_in_setup", "work")
    job = at.job()
    assert isinstance(job.failure(), InfrastructureError)
    before = at.work_folders()
    job.close()
    assert at.work_folders() == set()
    assert job.separate().status == "success"
    assert at.work_folders().isdisjoint(before)
    assert at.source.connections == 2


def test_only_the_stems_are_kept_until_the_hand_off(bench: Opener) -> None:
    at = bench("work")
    (at.root / "handoff").write_text("a file in place of the folder")
    job = at.job()
    job.failure()
    (folder,) = at.work_folders()
    files = {path.name for path in (at.handler.workdir.path / folder / "files").iterdir()}
    assert files == {"vocals.wav", "instrumental.wav"}
    assert at.handler.budget.held == 0


def test_job_whose_files_are_removed_begins_again_instead_of_failing(bench: Opener) -> None:
    at = bench("work")
    (at.root / "handoff").write_text("a file in place of the folder")
    job = at.job()
    job.failure()
    (at.root / "handoff").unlink()
    shutil.rmtree(at.handler.workdir.path)
    error = job.failure()
    assert (type(error), error.code) == (InfrastructureError, ErrorCode.WORK_FILES_LOST)
    job.close()
    assert job.separate().status == "success"


def test_failed_result_contains_the_task(bench: Opener) -> None:
    at = bench("work")
    at.source.add("/song", sequence(answer(503), content(b"x")))
    job = at.job(metadata={"order": 1})
    error = job.failure()
    assert isinstance(error, TransientError)
    outcome = at.handler.on_failure(job.task, error)
    (message,) = outcome.outputs
    result = from_message(SeparationResult, message)
    assert (outcome.end, result.status, result.task) == ("failed", "failed", job.task)
    assert result.error is not None
    assert result.error.code is ErrorCode.SOURCE_UNAVAILABLE


# --- timeouts ---


@pytest.mark.parametrize(
    ("duration", "timeout"), [(0.0, 300.0), (1.0, 320.0), (180.0, 3900.0), (345.0, 7200.0), (3600.0, 7200.0)]
)
def test_timeout_grows_with_the_song_up_to_the_maximum(duration: float, timeout: float) -> None:
    limits = JobLimits(LIMITS.download, 3600.0, job_timeout=7200.0, job_timeout_base=300.0, job_timeout_factor=20.0)
    assert limits.separation_timeout(duration) == timeout


def test_hanging_separation_is_ended_at_the_timeout_of_the_song(bench: Opener) -> None:
    """The song has 0.2 s."""
    limits = replace(LIMITS, job_timeout=DEADLINE, job_timeout_base=0.5, job_timeout_factor=2.0)
    at = bench("stop_in_job", "work", limits=limits)
    job = at.job()
    error = job.failure()
    assert isinstance(error, PoisonError)
    assert (error.code, error.message) == (ErrorCode.WORKER_TIMEOUT, "the separation took longer than 0.9 s")
    assert at.job().separate().status == "success"
