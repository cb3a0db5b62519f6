"""One delivery of a task, stage by stage: fetch, decode, wait for the device, separate, hand off."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pipeline.cancellation import CancelToken
from pipeline.consuming.consumer import JobContext
from pipeline.download import ConnectionOptions, Downloaded, DownloadLimits, UrlGuard, download
from pipeline.download.http.rate_limit import RateLimit
from pipeline.download.http.session import DIRECT
from pipeline.download_progress import watch_download
from pipeline.files import local_errors
from pipeline.messages import SeparationResult, SeparationTask, StemFile, TaskState
from pipeline.progress import EventReporter, TransferRate
from pipeline.service.logs import get_logger
from pipeline.service.workdir import WorkDir
from pipeline.storage import ObjectStore
from pipeline.storage.object_keys import handoff_key
from processor.audio.decode import Mixture, decode, max_decoded_bytes
from processor.audio.probe import Hints, probe
from processor.cancellable import run_cancellable
from processor.disk_budget import DiskBudget
from processor.ipc import Done, Stem
from processor.workers.dispatcher import Lease
from processor.workers.pool import WorkerPool
from processor.workers.supervisor import WorkerSupervisor, WorkerUnavailableError

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class JobLimits:
    """What one song may take."""

    download: DownloadLimits
    max_seconds: float
    """Length of the song, s."""
    job_timeout: float
    """Duration of the separation of any song, s."""
    job_timeout_base: float
    """Duration of the separation of a song of no length, s."""
    job_timeout_factor: float
    """What each second of the song adds to it, s."""

    def separation_timeout(self, duration: float) -> float:
        """Longest separation of a song of ``duration`` s, in s."""
        return min(self.job_timeout, self.job_timeout_base + self.job_timeout_factor * duration)


@dataclass(frozen=True, slots=True)
class Equipment:
    """What the jobs of one processor share. Thread-safe."""

    pool: WorkerPool
    budget: DiskBudget
    handoff: ObjectStore
    guard: UrlGuard
    reporter: EventReporter
    workdir: WorkDir
    limits: JobLimits
    connection_options: ConnectionOptions = DIRECT
    rate: RateLimit | None = None
    """Shared by all downloads of songs; None: as fast as they come."""


class _Timings:
    """How long each stage took, s, all its tries together."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        started = time.monotonic()
        try:
            yield
        finally:
            self.add(name, time.monotonic() - started)

    def add(self, name: str, seconds: float) -> None:
        self.seconds[name] = round(self.seconds.get(name, 0.0) + seconds, 3)


class SeparationJob:
    """One delivery of one task. Its files are gone when ``context.exit`` is closed.

    What has been done stays done: a job that is tried again after its hand-off failed is not separated again, and one
    for which there was no device for a moment is not fetched again. Each stage asks for the one before it.
    """

    def __init__(self, equipment: Equipment, task: SeparationTask, context: JobContext) -> None:
        """Raises InfrastructureError if there can be no working folder."""
        self._equipment = equipment
        self._task = task
        self._cancel: CancelToken = context.cancel
        self._folder: Path = context.exit.enter_context(equipment.workdir.job())
        self._place = context.exit.enter_context(equipment.budget.place())
        self._timings = _Timings()
        self._source: Downloaded | None = None
        self._mixture: Mixture | None = None
        self._done: Done | None = None
        self._stems: list[StemFile] = []

    def result(self) -> SeparationResult:
        """Do what is not done yet. Raises whatever a stage raises."""
        stems = self._hand_off()
        mixture, done = self._decode(), self._separate()
        log.info("separated", duration=round(mixture.duration, 3), **self._timings.seconds)
        return SeparationResult(
            task_uuid=self._task.task_uuid,
            task=self._task,
            status="success",
            stems=stems,
            model=done.model,
            device=done.device,
            timings=self._timings.seconds,
            degraded=(*mixture.notes, *done.degraded),
        )

    def _fetch(self) -> Downloaded:
        if self._source is None:
            limits = self._equipment.limits.download
            with self._timings.stage("wait"):
                self._place.ask_for(limits.max_bytes, self._cancel)
            self._equipment.reporter.report(self._task.task_uuid, TaskState.DOWNLOADING)
            with self._timings.stage("download"):
                self._source = self._downloaded(limits)
            self._place.keep(self._source.bytes)
        return self._source

    def _downloaded(self, limits: DownloadLimits) -> Downloaded:
        with watch_download("audio", self._on_download) as transfer:
            return transfer.done(
                download(
                    self._task.audio,
                    self._folder / "source",
                    guard=self._equipment.guard,
                    limits=limits,
                    cancel=self._cancel,
                    on_progress=transfer.progress,
                    connection_options=self._equipment.connection_options,
                    rate=self._equipment.rate,
                )
            )

    def _on_download(self, fraction: float, pace: TransferRate) -> None:
        self._equipment.reporter.progress(self._task.task_uuid, TaskState.DOWNLOADING, fraction, pace)

    def _decode(self) -> Mixture:
        if self._mixture is None:
            source = self._fetch()
            max_seconds = self._equipment.limits.max_seconds
            with self._timings.stage("decode"):
                probe(source.path, max_seconds=max_seconds, hints=Hints(source.content_type, source.extension))
            with self._timings.stage("wait"):
                self._place.ask_for(source.bytes + max_decoded_bytes(max_seconds), self._cancel)
            with self._timings.stage("decode"):
                self._mixture = decode(source.path, self._folder, max_seconds=max_seconds, cancel=self._cancel)
            with local_errors():
                source.path.unlink(missing_ok=True)
                self._place.keep(self._mixture.path.stat().st_size)
        return self._mixture

    def _separate(self) -> Done:
        if self._done is None:
            mixture = self._decode()
            while self._done is None:
                try:
                    self._done = self._at_a_device(mixture)
                except WorkerUnavailableError as error:
                    if not self._equipment.pool.is_ready:
                        raise
                    log.warning("child_unavailable", error=error.message)  # and its place is not chosen any more
            with local_errors():
                mixture.path.unlink(missing_ok=True)
        return self._done

    def _at_a_device(self, mixture: Mixture) -> Done:
        leased = self._equipment.pool.lease(self._cancel, self._task.model)
        with leased as lease, self._place.at_the_device():
            self._timings.add("wait", lease.waited)
            with self._timings.stage("separate"):
                return self._separated(mixture, lease)

    def _separated(self, mixture: Mixture, lease: Lease[WorkerSupervisor]) -> Done:
        timeout = self._equipment.limits.separation_timeout(mixture.duration)
        log.info(
            "separating",
            on=lease.slot.device.label,
            pid=lease.slot.pid,
            duration=round(mixture.duration, 3),
            timeout=round(timeout, 3),
            waited=round(lease.waited, 3),
            device_idle=round(lease.idle, 3),
        )
        self._equipment.reporter.report(self._task.task_uuid, TaskState.SEPARATING)
        return lease.slot.separate(
            mixture,
            self._folder,
            model=self._task.model,
            stems=self._task.stems,
            timeout=timeout,
            cancel=self._cancel,
            on_progress=self._on_separation,
        )

    def _on_separation(self, fraction: float) -> None:
        self._equipment.reporter.progress(self._task.task_uuid, TaskState.SEPARATING, fraction)

    def _hand_off(self) -> tuple[StemFile, ...]:
        done = self._separate()
        with self._timings.stage("handoff"):
            for stem in done.stems[len(self._stems) :]:
                self._stems.append(self._handed_off(stem))
        return tuple(self._stems)

    def _handed_off(self, stem: Stem) -> StemFile:
        key = handoff_key(self._task.task_uuid, self._task.run, stem.name, stem.sha256)
        store = self._equipment.handoff
        # A put that goes on after a cancel stores what any other member would store there, or fails for want of a file.
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
