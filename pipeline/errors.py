"""The error taxonomy: every failure is classified once, at the boundary where it enters the pipeline.

    PipelineError
    ├── PermanentError        this job can never succeed: fail it at once
    ├── TransientError        this job may succeed later: spend an attempt, try again
    │   └── DeferredError      the job is not the cause and should not wait here: spend nothing, try again later
    ├── InfrastructureError   the job is not the cause: keep it, spend nothing, wait
    │   └── RefusedError      waiting does not help: the broker rejects this service
    ├── PoisonError           the job crashed its worker process
    └── CancelledError        the work must stop and its result must not be published

Code above a boundary never sees an exception of kafka, boto3, requests, PyAV, torch or audio-separator.
"""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar


class ErrorKind(StrEnum):
    """The meaning of a failure for its job."""

    PERMANENT = "permanent"
    TRANSIENT = "transient"
    INFRASTRUCTURE = "infrastructure"
    POISON = "poison"
    CANCELLED = "cancelled"


class ErrorCode(StrEnum):
    """Machine-readable reasons, as they appear in webhooks and logs. Codes are added, never renamed."""

    # The source of the audio; the URL of the webhook.
    URL_INVALID = "url_invalid"
    URL_FORBIDDEN = "url_forbidden"
    SOURCE_NOT_FOUND = "source_not_found"
    SOURCE_REFUSED = "source_refused"
    SOURCE_UNAVAILABLE = "source_unavailable"
    SOURCE_TIMEOUT = "source_timeout"
    SOURCE_INCOMPLETE = "source_incomplete"
    SOURCE_TOO_LARGE = "source_too_large"
    SOURCE_PROTOCOL = "source_protocol"
    SOURCE_CORRUPT = "source_corrupt"
    # The audio itself.
    NOT_AUDIO = "not_audio"
    AUDIO_EMPTY = "audio_empty"
    AUDIO_TOO_LONG = "audio_too_long"
    AUDIO_CORRUPT = "audio_corrupt"
    # The separation.
    MODEL_UNKNOWN = "model_unknown"
    MODEL_UNAVAILABLE = "model_unavailable"
    STEM_UNKNOWN = "stem_unknown"
    STEM_MISSING = "stem_missing"
    SEPARATION_FAILED = "separation_failed"
    WORKER_DIED = "worker_died"
    WORKER_TIMEOUT = "worker_timeout"
    DEVICE_UNAVAILABLE = "device_unavailable"
    OUT_OF_MEMORY = "out_of_memory"
    # The hand-off, the storage, the webhook.
    HANDOFF_MISSING = "handoff_missing"
    OBJECT_MISSING = "object_missing"
    STORAGE_UNAVAILABLE = "storage_unavailable"
    STORAGE_REFUSED = "storage_refused"
    DISK_FULL = "disk_full"
    WEBHOOK_FAILED = "webhook_failed"
    WEBHOOK_GONE = "webhook_gone"
    # The transport.
    BROKER_UNAVAILABLE = "broker_unavailable"
    BROKER_REFUSED = "broker_refused"
    MESSAGE_TOO_LARGE = "message_too_large"
    MESSAGE_INVALID = "message_invalid"
    DELIVERY_LOST = "delivery_lost"
    SHUTTING_DOWN = "shutting_down"
    # A defect of the service.
    INTERNAL = "internal"
    # Content other than audio at the source, and files without usable audio.
    SOURCE_IS_WEB_PAGE = "source_is_web_page"
    SOURCE_IS_TEXT = "source_is_text"
    SOURCE_IS_PLAYLIST = "source_is_playlist"
    SOURCE_IS_ARCHIVE = "source_is_archive"
    SOURCE_IS_DOCUMENT = "source_is_document"
    SOURCE_IS_IMAGE = "source_is_image"
    AUDIO_MISSING = "audio_missing"
    AUDIO_PROTECTED = "audio_protected"
    # Models that cannot be loaded, and models that the settings exclude.
    MODEL_INVALID = "model_invalid"
    MODEL_NOT_ALLOWED = "model_not_allowed"
    # The job is possible, but not here and now.
    MESSAGE_NEWER = "message_newer"
    RECEIVER_BUSY = "receiver_busy"
    SOURCE_SLOW = "source_slow"
    # A cleaner removed working files of a running job.
    WORK_FILES_LOST = "work_files_lost"


class PipelineError(Exception):
    """Base of every classified failure.

    ``message`` is one clear sentence that may be shown to the client: no secrets, no local paths, no addresses.
    """

    kind: ClassVar[ErrorKind]

    def __init__(self, message: str, *, code: ErrorCode) -> None:
        super().__init__(message)
        self.message = message
        self.code = code

    @property
    def retryable(self) -> bool:
        """Return whether the same request may succeed later."""
        return self.kind is not ErrorKind.PERMANENT


class PermanentError(PipelineError):
    """The job can never succeed as requested: 404, not audio, too long, unknown model."""

    kind = ErrorKind.PERMANENT


class TransientError(PipelineError):
    """The job may succeed later: 503, timeout, reset. Spends one attempt.

    ``retry_after`` (s) is the delay that the server requested, if any.
    """

    kind = ErrorKind.TRANSIENT

    def __init__(self, message: str, *, code: ErrorCode, retry_after: float | None = None) -> None:
        super().__init__(message, code=code)
        self.retry_after = retry_after


class DeferredError(TransientError):
    """The job waits in a retry topic, without a worker thread and without spending an attempt."""


class InfrastructureError(PipelineError):
    """The broker, the storage or the disk is unavailable: keep the job, spend no attempt."""

    kind = ErrorKind.INFRASTRUCTURE


class RefusedError(InfrastructureError):
    """The broker answers and rejects this service, which an operator has to fix: retries do not help.

    ``advice`` is one sentence for the log and the terminal: which broker, which user, what to check. No secrets.
    """

    def __init__(self, message: str, *, advice: str) -> None:
        super().__init__(message, code=ErrorCode.BROKER_REFUSED)
        self.advice = advice


class PoisonError(PipelineError):
    """The job crashed the process that worked on it."""

    kind = ErrorKind.POISON


class CancelledError(PipelineError):
    """The work must stop now, and its products so far are not published."""

    kind = ErrorKind.CANCELLED
