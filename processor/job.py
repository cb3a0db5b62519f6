"""The processor's jobs, in the order of their stages: fetch, decode, separate, hand off."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

from pipeline.consuming.handler import JobContext, Outcome
from pipeline.download import ConnectionOptions, Downloaded, DownloadLimits, DownloadProgress, UrlGuard, download
from pipeline.download.http.rate_limit import RateLimit
from pipeline.download.http.session import DIRECT
from pipeline.download_progress import watch_download
from pipeline.errors import PipelineError
from pipeline.files import file_sha256, local_errors
from pipeline.messages import SeparationResult, SeparationTask, SourceAudio, StemFile, TaskState, to_message
from pipeline.progress import EventReporter
from pipeline.service.logs import get_logger
from pipeline.service.workdir import WorkDir, files_kept
from pipeline.storage import ObjectStore
from pipeline.storage.object_keys import handoff_key
from processor.audio.decode import Mixture, max_decoded_bytes
from processor.audio.probe import Hints
from processor.audio.resampler import resample_file, stem_rate
from processor.cancellable import run_cancellable
from processor.disk_budget import DiskBudget
from processor.download_lanes import DownloadLanes
from processor.ipc import Done, Stem
from processor.sandbox.client import AudioSandbox
from processor.workers.dispatcher import Lease
from processor.workers.pool import WorkerPool
from processor.workers.supervisor import WorkerSupervisor, WorkerUnavailableError

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class JobLimits:
    """The limits of one job."""

    download: DownloadLimits
    max_seconds: float
    """Maximum length of a song, s."""
    job_timeout: float
    """Maximum duration of any separation, s."""
    job_timeout_base: float
    """Maximum duration of a separation, s, apart from the part that grows with the song."""
    job_timeout_factor: float
    """Seconds that each second of the song adds to ``job_timeout_base``."""

    def separation_timeout(self, duration: float) -> float:
        """Return the timeout, s, for the separation of a song of ``duration`` s."""
        return min(self.job_timeout, self.job_timeout_base + self.job_timeout_factor * duration)


@dataclass(frozen=True, slots=True)
class SeparationHandler:
    """The ``JobHandler`` of the processor, with everything that its jobs share. Thread-safe.

    Jobs may be repeated: working files have unique names, and the keys of the stems in the hand-off store derive from
    the task.
    """

    pool: WorkerPool
    sandbox: AudioSandbox
    budget: DiskBudget
    handoff: ObjectStore
    guard: UrlGuard
    reporter: EventReporter
    workdir: WorkDir
    limits: JobLimits
    lanes: DownloadLanes
    result_topic: str
    connection_options: ConnectionOptions = DIRECT
    rate: RateLimit | None = None
    """Shared by all downloads of songs; None: unlimited."""

    def begin(self, task: SeparationTask, context: JobContext) -> SeparationRun:
        """Start the work on a delivery of ``task``. Raises InfrastructureError if it can have no working folder."""
        return SeparationRun(self, task, context)

    def on_failure(self, task: SeparationTask, error: PipelineError) -> Outcome:
        """Return the ``failed`` result, which the uploader reports to the client."""
        return Outcome((to_message(self.result_topic, SeparationResult.failed(task, error)),), end="failed")


class SeparationRun:
    """The ``JobRun`` of one delivery of one task.

    Each stage keeps its product, so a retry starts with the stage that failed: a job is not separated again after its
    hand-off failed, and its song is not fetched again because no device was available.
    """

    def __init__(self, handler: SeparationHandler, task: SeparationTask, context: JobContext) -> None:
        self._handler = handler
        self._task = task
        self._cancel = context.cancel
        with ExitStack() as resources:
            self._folder = resources.enter_context(handler.workdir.job())
            self._reservation = resources.enter_context(handler.budget.reserve())
            self._resources = resources.pop_all()
        self._source: Downloaded | None = None
        self._mixture: Mixture | None = None
        self._separated: Done | None = None
        self._handed_off: list[StemFile] = []
        self._timings: dict[str, float] = {}
        """Duration of each stage, s, summed over its tries."""

    def handle(self) -> Outcome:
        """Run the stages that are not done yet. Raises the errors of the stages, and as ``files_kept`` does."""
        with files_kept(self._folder):
            return self._run_stages()

    def _run_stages(self) -> Outcome:
        source = self._source or self._fetch()
        mixture = self._mixture or self._decode(source)
        separated = self._separated or self._separate(mixture)
        with self._timed("handoff"):
            for stem in separated.stems[len(self._handed_off) :]:
                self._handed_off.append(self._hand_off(stem, mixture))
        log.info("separated", duration=round(mixture.duration, 3), **self._timings)
        result = SeparationResult(
            task_uuid=self._task.task_uuid,
            task=self._task,
            status="success",
            stems=tuple(self._handed_off),
            source=SourceAudio(sample_rate=mixture.source_rate, bits=mixture.bits),
            model=separated.model,
            device=separated.device,
            timings=self._timings,
            degraded=(*mixture.notes, *separated.degraded),
        )
        return Outcome((to_message(self._handler.result_topic, result),), end="separated")

    def close(self) -> None:
        """Delete the working folder and return the reserved disk space."""
        self._resources.close()

    def _fetch(self) -> Downloaded:
        handler, task = self._handler, self._task
        limits = handler.limits.download
        with self._timed("wait"):
            self._reservation.request(limits.max_bytes, self._cancel)
        handler.reporter.report(task.task_uuid, TaskState.DOWNLOADING)

        def on_progress(progress: DownloadProgress) -> None:
            transfer.progress(progress)
            lane.check(progress)

        with (
            self._timed("download"),
            handler.lanes.lane() as lane,
            watch_download(
                "audio",
                lambda fraction, rate: handler.reporter.progress(task.task_uuid, TaskState.DOWNLOADING, fraction, rate),
            ) as transfer,
        ):
            self._source = source = transfer.done(
                download(
                    task.audio,
                    self._folder / "source",
                    guard=handler.guard,
                    limits=limits,
                    cancel=self._cancel,
                    on_progress=on_progress,
                    connection_options=handler.connection_options,
                    rate=handler.rate,
                )
            )
        self._reservation.keep(source.bytes)
        return source

    def _decode(self, source: Downloaded) -> Mixture:
        max_seconds = self._handler.limits.max_seconds
        sandbox = self._handler.sandbox
        with sandbox.open(self._folder, max_seconds=max_seconds, cancel=self._cancel) as decoder:
            with self._timed("decode"):
                decoder.probe(source.path, Hints(source.content_type, source.extension))
            with self._timed("wait"):
                self._reservation.request(source.bytes + max_decoded_bytes(max_seconds), self._cancel)
            with self._timed("decode"):
                self._mixture = mixture = decoder.decode(source.path)
        with local_errors():
            source.path.unlink(missing_ok=True)
            self._reservation.keep(mixture.path.stat().st_size)
        return mixture

    def _separate(self, mixture: Mixture) -> Done:
        separated = None
        while separated is None:
            try:
                with (
                    self._handler.pool.lease(self._cancel, self._task.model) as lease,
                    self._reservation.at_device(),
                ):
                    separated = self._separate_on(lease, mixture)
            except WorkerUnavailableError as error:
                if not self._handler.pool.is_ready:
                    raise
                # The pool chooses another child: the one that failed is no longer ready.
                log.warning("worker_unavailable", error=error.message)
        self._separated = separated
        with local_errors():
            mixture.path.unlink(missing_ok=True)
        return separated

    def _separate_on(self, lease: Lease[WorkerSupervisor], mixture: Mixture) -> Done:
        self._add_time("wait", lease.waited)
        timeout = self._handler.limits.separation_timeout(mixture.duration)
        log.info(
            "separating",
            on=lease.slot.device.label,
            pid=lease.slot.pid,
            duration=round(mixture.duration, 3),
            timeout=round(timeout, 3),
            waited=round(lease.waited, 3),
            device_idle=round(lease.idle, 3),
        )
        reporter, task_uuid = self._handler.reporter, self._task.task_uuid
        reporter.report(task_uuid, TaskState.SEPARATING)
        with self._timed("separate"):
            return lease.slot.separate(
                mixture,
                self._folder,
                model=self._task.model,
                stems=self._task.stems,
                timeout=timeout,
                cancel=self._cancel,
                on_progress=lambda fraction: reporter.progress(task_uuid, TaskState.SEPARATING, fraction),
            )

    def _hand_off(self, stem: Stem, mixture: Mixture) -> StemFile:
        wanted = self._task.sample_rate
        rate = stem_rate(mixture.source_rate) if wanted == "source" else wanted
        stem = self._at_rate(stem, rate, mixture.frames_at(rate))
        key = handoff_key(self._task.task_uuid, self._task.run, stem.name, stem.sha256)
        store = self._handler.handoff
        # A put that continues after a cancellation is harmless: any other member would store the same content under
        # this key, and once the file is deleted the put fails.
        run_cancellable(lambda: store.put(key, stem.path, content_type="audio/wav"), self._cancel)
        log.info("stem_handed_off", stem=stem.name, key=key, bytes=stem.bytes)
        return StemFile(
            name=stem.name,
            key=key,
            sha256=stem.sha256,
            bytes=stem.bytes,
            duration=stem.frames / stem.sample_rate,
            sample_rate=stem.sample_rate,
            channels=stem.channels,
            peak=stem.peak,
        )

    def _at_rate(self, stem: Stem, rate: int, frames: int) -> Stem:
        """Return the stem at ``rate`` Hz. It is converted here, where its job no longer occupies the device."""
        if rate == stem.sample_rate:
            return stem
        path = self._folder / "stem.resampled.wav"  # no stem of this name: it has a dot
        with local_errors():
            written = resample_file(stem.path, path, (stem.sample_rate, rate), frames, self._cancel)
            return replace(
                stem,
                path=path,
                sha256=file_sha256(path),
                bytes=path.stat().st_size,
                frames=written.frames,
                sample_rate=rate,
                peak=written.peak,
            )

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        started = time.monotonic()
        try:
            yield
        finally:
            self._add_time(stage, time.monotonic() - started)

    def _add_time(self, stage: str, seconds: float) -> None:
        self._timings[stage] = round(self._timings.get(stage, 0.0) + seconds, 3)
