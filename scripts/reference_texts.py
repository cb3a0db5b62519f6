"""Texts of the generated reference pages: the meaning of each error kind, error code and task state."""

from __future__ import annotations

from pipeline.errors import ErrorCode, ErrorKind
from pipeline.messages import TaskState

KINDS = {
    ErrorKind.PERMANENT: "The job cannot succeed as requested. It fails at once, without a retry.",
    ErrorKind.TRANSIENT: "The job may succeed later. It goes to a retry topic and spends one of `MAX_ATTEMPTS`.",
    ErrorKind.INFRASTRUCTURE: "The job is not at fault; the broker, the store or the disk is. The job is kept, no "
    "attempt is spent, and the worker takes no new jobs until the fault is gone.",
    ErrorKind.POISON: "The job ended its worker. It is retried; after `MAX_CRASHES` it is quarantined as a dead letter "
    "and the webhook reports `failed`.",
    ErrorKind.CANCELLED: "The work was stopped and its result is not published. The job continues elsewhere, unless "
    "the task itself was cancelled.",
}

#: The usual kind, and the meaning.
CODES = {
    ErrorCode.URL_INVALID: ("permanent", "The URL is not a plain http or https URL."),
    ErrorCode.URL_FORBIDDEN: ("permanent", "The URL leads to an address, a host or a port that is not allowed."),
    ErrorCode.SOURCE_NOT_FOUND: ("permanent", "The source answered 404 or 410."),
    ErrorCode.SOURCE_REFUSED: (
        "permanent",
        "The source refused the request: any other 4xx, too many redirects, a redirect from https to http, or a "
        "certificate that cannot be verified.",
    ),
    ErrorCode.SOURCE_UNAVAILABLE: (
        "transient",
        "The source could not be reached, or answered 408, 425, 429 or 5xx. Infrastructure, if the operator's own "
        "proxy is the cause.",
    ),
    ErrorCode.SOURCE_TIMEOUT: ("transient", "The source was silent or too slow."),
    ErrorCode.SOURCE_INCOMPLETE: ("transient", "The file ended early, or kept changing during the download."),
    ErrorCode.SOURCE_TOO_LARGE: ("permanent", "The file is larger than `MAX_AUDIO_BYTES`."),
    ErrorCode.SOURCE_PROTOCOL: (
        "permanent",
        "The answer contradicts HTTP or the request. Transient, if the answer is not HTTP at all.",
    ),
    ErrorCode.SOURCE_CORRUPT: ("transient", "The hash of the file is not the expected or announced one."),
    ErrorCode.NOT_AUDIO: ("permanent", "The file has no audio track that can be decoded."),
    ErrorCode.AUDIO_EMPTY: ("permanent", "The file has no bytes, or no samples."),
    ErrorCode.AUDIO_TOO_LONG: ("permanent", "The song is longer than `MAX_AUDIO_SECONDS`."),
    ErrorCode.AUDIO_CORRUPT: ("permanent", "The file is truncated, or damaged beyond what players tolerate."),
    ErrorCode.MODEL_UNKNOWN: ("permanent", "No known model, preset or ensemble has this name."),
    ErrorCode.MODEL_UNAVAILABLE: ("transient", "The model's files could not be fetched or opened."),
    ErrorCode.MODEL_INVALID: ("permanent", "The model's files are damaged, do not fit together, or contain code."),
    ErrorCode.MODEL_NOT_ALLOWED: ("permanent", "`MODEL_ALLOW` does not include the model."),
    ErrorCode.STEM_UNKNOWN: ("permanent", "The model has no stem of a requested name."),
    ErrorCode.STEM_MISSING: ("permanent", "The model ended without an error and without one of its stems."),
    ErrorCode.SEPARATION_FAILED: ("permanent", "The model cannot separate this song."),
    ErrorCode.WORKER_DIED: ("poison", "The separation process ended while it worked on the job."),
    ErrorCode.WORKER_TIMEOUT: ("poison", "The separation exceeded its deadline, and its process was killed."),
    ErrorCode.DEVICE_UNAVAILABLE: ("infrastructure", "A required GPU or runtime cannot be used."),
    ErrorCode.OUT_OF_MEMORY: ("transient", "The memory did not suffice, even with the smallest batches and segments."),
    ErrorCode.HANDOFF_MISSING: ("permanent", "A stem is missing from the hand-off store after a second separation."),
    ErrorCode.OBJECT_MISSING: ("permanent", "The store has no object of this key."),
    ErrorCode.STORAGE_UNAVAILABLE: ("infrastructure", "The store cannot be reached."),
    ErrorCode.STORAGE_REFUSED: ("infrastructure", "The store refuses the credentials or the request."),
    ErrorCode.DISK_FULL: ("infrastructure", "A local disk is full."),
    ErrorCode.WORK_FILES_LOST: (
        "infrastructure",
        "Working files in `TEMP_DIR` were removed while the job used them. It begins again.",
    ),
    ErrorCode.WEBHOOK_FAILED: ("transient", "The receiver of the webhook did not answer 2xx."),
    ErrorCode.WEBHOOK_GONE: ("permanent", "The receiver of the webhook answered 410."),
    ErrorCode.BROKER_UNAVAILABLE: ("infrastructure", "The broker cannot be reached, or does not answer in time."),
    ErrorCode.BROKER_REFUSED: ("infrastructure", "The broker refuses this service. The service ends with status 77."),
    ErrorCode.MESSAGE_TOO_LARGE: ("permanent", "The message is larger than the broker accepts."),
    ErrorCode.MESSAGE_INVALID: ("permanent", "The message does not follow its model; it becomes a dead letter."),
    ErrorCode.MESSAGE_NEWER: (
        "transient",
        "The message needs a newer version of the service: it waits for one up to an hour, then the task fails.",
    ),
    ErrorCode.SOURCE_SLOW: (
        "transient",
        "The job waits, since slow downloads hold all the threads that they may. It spends no attempt.",
    ),
    ErrorCode.RECEIVER_BUSY: (
        "transient",
        "The webhook waits, since earlier ones hold all the threads that its receiver may have. It spends no attempt.",
    ),
    ErrorCode.DELIVERY_LOST: ("cancelled", "The message now belongs to another worker."),
    ErrorCode.SHUTTING_DOWN: ("cancelled", "The service is stopping; the job is given back."),
    ErrorCode.INTERNAL: ("permanent", "A defect of the service."),
    ErrorCode.SOURCE_IS_WEB_PAGE: ("permanent", "The file is HTML, such as a log-in page."),
    ErrorCode.SOURCE_IS_TEXT: ("permanent", "The file is JSON, XML or plain text, usually an error message."),
    ErrorCode.SOURCE_IS_PLAYLIST: ("permanent", "The file is a playlist, a feed, or refers to other files."),
    ErrorCode.SOURCE_IS_ARCHIVE: ("permanent", "The file is an archive, such as ZIP."),
    ErrorCode.SOURCE_IS_DOCUMENT: ("permanent", "The file is a document, such as PDF."),
    ErrorCode.SOURCE_IS_IMAGE: ("permanent", "The file is an image."),
    ErrorCode.AUDIO_MISSING: ("permanent", "The file is a video without an audio track."),
    ErrorCode.AUDIO_PROTECTED: ("permanent", "The file is encrypted (DRM)."),
}

STATES = {
    TaskState.QUEUED: "The job is durable and waits for a processor.",
    TaskState.DOWNLOADING: "A processor downloads the source. Events have `bytes_per_second` and `seconds_left`.",
    TaskState.SEPARATING: "The model separates the song.",
    TaskState.UPLOADING: "An uploader encodes the stems and stores them.",
    TaskState.NOTIFYING: "An uploader calls the webhook.",
    TaskState.SUCCESS: "The stems are stored and the webhook was accepted.",
    TaskState.FAILED: "There are no stems, and the webhook was given the reason.",
    TaskState.CANCELLED: "The task was cancelled.",
}
