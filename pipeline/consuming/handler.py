"""The interface between the consumer loop and the service that handles its jobs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from pipeline.cancellation import CancelToken
from pipeline.errors import PipelineError
from pipeline.transport.protocol import Message

JobIn = TypeVar("JobIn", contravariant=True)


@dataclass(frozen=True, slots=True)
class JobContext:
    """The delivery of a job, as far as its handler needs to know it."""

    cancel: CancelToken
    attempt: int
    """1 for the first delivery, +1 for each worker process that the job has crashed."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a job, and the messages to make durable with it."""

    outputs: Sequence[Message] = ()
    end: str = "done"
    """The kind of result in one word, for logs and metrics."""


class JobRun(Protocol):
    """The work on one delivery of a job, together with the state that its tries share.

    While an infrastructure fault lasts, the consumer holds the job and calls ``handle`` again and again. A run keeps
    the work that is done, so that a retry resumes where the previous try failed. One thread uses it at a time.
    """

    def handle(self) -> Outcome:
        """Do the remaining work. Raises PipelineErrors; must be safe to repeat."""

    def close(self) -> None:
        """Release files and reservations. Called once: at the end of the delivery, or when the run must begin again."""


class JobHandler(Protocol[JobIn]):
    """The work of a service on its jobs. Thread-safe: all worker threads share it."""

    def begin(self, job: JobIn, context: JobContext) -> JobRun:
        """Start the work on a delivery; called once per delivery, and again after ``close``. Raises PipelineErrors.

        An implementation that raises releases what it has acquired by then.
        """

    def on_failure(self, job: JobIn, error: PipelineError) -> Outcome:
        """Return the outcome of a job that has failed for good. Raises only InfrastructureErrors."""
