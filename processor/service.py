"""What the processor does with a task: fetch, decode, separate, hand off."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pipeline.cancel import CancelToken
from pipeline.consumer import JobContext, Outcome
from pipeline.download import DownloadLimits, DownloadProgress, UrlGuard, download
from pipeline.errors import PipelineError
from pipeline.events import Reporter
from pipeline.messages import SeparationResult, SeparationTask, StemFile, TaskState, to_message
from pipeline.storage import ObjectStore
from pipeline.storage.keys import handoff_key
from pipeline.telemetry import get_logger
from pipeline.workdir import WorkDir
from processor.decode import Mixture, decode
from processor.protocol import Done, Stem
from processor.separation import SeparationProcess

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Limits:
    """What one song may take."""

    download: DownloadLimits
    max_seconds: float
    """Length of the song, s."""
    job_timeout: float
    """Duration of its separation, s."""


class _Timings:
    """How long each stage took, s."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - started, 3)


@dataclass(frozen=True, slots=True)
class Processor:
    """The worker behind the processor's consumer loop. See ``pipeline.consumer.Worker``.

    Everything it does may be repeated: working files have names of their own, and the stems' keys in the hand-off
    are derived from the task.
    """

    separation: SeparationProcess
    handoff: ObjectStore
    guard: UrlGuard
    reporter: Reporter
    workdir: WorkDir
    limits: Limits
    result_topic: str

    def handle(self, task: SeparationTask, context: JobContext) -> Outcome:
        """Separate the task's song. Raises whatever a stage raises."""
        timings = _Timings()
        with self.workdir.job() as folder:
            with timings.stage("download"):
                source = self._fetch(task, folder, context.cancel)
            with timings.stage("decode"):
                mixture = decode(source, folder, max_seconds=self.limits.max_seconds, cancel=context.cancel)
            source.unlink()
            with timings.stage("separate"):
                done = self._separate(task, mixture, folder, context.cancel)
            with timings.stage("handoff"):
                stems = tuple(self._hand_off(task, stem) for stem in done.stems)
        result = SeparationResult(
            task_uuid=task.task_uuid,
            status="success",
            hook_url=task.hook_url,
            output_format=task.output_format,
            metadata=task.metadata,
            stems=stems,
            model=done.model,
            device=done.device,
            timings=timings.seconds,
            degraded=mixture.notes,
        )
        log.info("separated", duration=round(mixture.duration, 3), **timings.seconds)
        return Outcome((to_message(self.result_topic, result),))

    def on_failure(self, task: SeparationTask, error: PipelineError) -> Outcome:
        """The ``failed`` result, for the uploader to tell the client."""
        return Outcome((to_message(self.result_topic, SeparationResult.failed(task, error)),))

    def _fetch(self, task: SeparationTask, folder: Path, cancel: CancelToken) -> Path:
        self.reporter.report(task.task_uuid, TaskState.DOWNLOADING)

        def on_progress(progress: DownloadProgress) -> None:
            if progress.total:
                self.reporter.progress(task.task_uuid, TaskState.DOWNLOADING, progress.bytes / progress.total)

        downloaded = download(
            task.audio,
            folder / "source",
            guard=self.guard,
            limits=self.limits.download,
            cancel=cancel,
            on_progress=on_progress,
        )
        return downloaded.path

    def _separate(self, task: SeparationTask, mixture: Mixture, folder: Path, cancel: CancelToken) -> Done:
        self.reporter.report(task.task_uuid, TaskState.SEPARATING)
        return self.separation.separate(
            mixture,
            folder,
            model=task.model,
            stems=task.stems,
            timeout=self.limits.job_timeout,
            cancel=cancel,
            on_progress=lambda fraction: self.reporter.progress(task.task_uuid, TaskState.SEPARATING, fraction),
        )

    def _hand_off(self, task: SeparationTask, stem: Stem) -> StemFile:
        key = handoff_key(task.task_uuid, stem.name, stem.sha256)
        self.handoff.put(key, stem.path, content_type="audio/wav")
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
