"""The one place that builds and checks object keys.

A key is a sequence of ``/``-separated segments of ``[A-Za-z0-9._-]``: the same key is harmless as a path of the local
store, as an S3 key and as the path of a link, and needs quoting in none of them.
"""

from __future__ import annotations

import re
from uuid import UUID

from pipeline.errors import ErrorCode, PermanentError
from pipeline.messages import OutputFormat

#: S3 allows keys of 1024 bytes. File systems allow file names of 255 bytes, from which servers that keep objects in
#: files take some for the names of their drafts.
MAX_KEY_LENGTH = 1024
MAX_SEGMENT_LENGTH = 200

_SEGMENT = re.compile(r"[A-Za-z0-9._-]+")


def stem_key(task_uuid: UUID, stem: str, format: OutputFormat) -> str:
    """Where a finished stem lies: ``{task_uuid}_{stem}.{format}``."""
    return check_key(f"{task_uuid}_{_segment(stem)}.{format.value}")


def staged_key(task_uuid: UUID, stem: str, digest: str, format: OutputFormat) -> str:
    """Where a finished stem waits for the task's outcome; ``digest`` is that of what it was made from."""
    return check_key(f"staged/{task_uuid}_{_segment(stem)}-{_segment(digest[:16])}.{format.value}")


def handoff_key(task_uuid: UUID, run: str, stem: str, sha256: str) -> str:
    """Where a stem lies on its way from processor to uploader: ``handoff/{task_uuid}/{stem}-{hash}.wav``.

    With part of the content's hash in it, since a GPU may not give the same bits twice: the stems of a repeated job
    must not replace those that an earlier result still points at.
    """
    return check_key(f"handoff/{_named(task_uuid, run)}/{_segment(stem)}-{_segment(sha256[:16])}.wav")


def outcome_key(task_uuid: UUID, run: str) -> str:
    """Where the one outcome of a task is kept, or of a repeat that was asked for: ``outcomes/{task_uuid}.json``."""
    return check_key(f"outcomes/{_named(task_uuid, run)}.json")


def check_key(key: str) -> str:
    """``key`` itself. Raises PermanentError (code ``storage_refused``) unless it is well formed."""
    if len(key) > MAX_KEY_LENGTH:
        raise _malformed()
    for segment in key.split("/"):
        _segment(segment)
    return key


def _named(task_uuid: UUID, run: str) -> str:
    """A task, or a repeat of it that was asked for."""
    return "_".join(filter(None, (str(task_uuid), run)))


def _segment(text: str) -> str:
    """``text`` itself, unless it is more than one segment, or none."""
    if len(text) > MAX_SEGMENT_LENGTH or ".." in text or text == "." or not _SEGMENT.fullmatch(text):
        raise _malformed()
    return text


def _malformed() -> PermanentError:
    return PermanentError("the object key is malformed", code=ErrorCode.STORAGE_REFUSED)
