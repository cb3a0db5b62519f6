"""Builds and validates object keys.

A key is a sequence of ``/``-separated segments of ``[A-Za-z0-9._-]``. The same key is safe as a path of the local
store, as an S3 key and as the path of a link, and needs no quoting in any of them. A stem's name becomes a segment by
``pipeline.stem_name.stem_segment``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

from pipeline.errors import ErrorCode, PermanentError
from pipeline.messages import OutputFormat
from pipeline.stem_name import stem_segment

#: S3 allows keys of 1024 bytes. File systems allow file names of 255 bytes; servers that store objects in files use
#: some of them for the names of temporary files.
MAX_KEY_LENGTH = 1024
MAX_SEGMENT_LENGTH = 200

#: Beginnings of the keys of objects that are for the services alone.
PRIVATE_PREFIXES = ("outcomes/", "staged/", "handoff/")

_TASK = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
_OBJECT = re.compile(
    rf"(?P<stem>{_TASK}_[^/]+)|staged/(?P<staged>{_TASK}_[^/]+)"
    rf"|handoff/(?P<handoff>{_TASK}(_[^/]+)?)/[^/]+|outcomes/(?P<outcome>{_TASK}(_[^/]+)?)\.json"
)
_SEGMENT = re.compile(r"[A-Za-z0-9._-]+")


class ObjectKind(StrEnum):
    """Kind of an object of the service."""

    STEM = "stem"
    STAGED = "staged"
    HANDOFF = "handoff"
    OUTCOME = "outcome"


@dataclass(frozen=True, slots=True)
class ParsedKey:
    """The parts of the key of an object of the service."""

    kind: ObjectKind
    name: str
    """Identifies the task and the run for an outcome and for a stem in transit."""

    @property
    def outcome(self) -> str:
        """Return the key of the outcome of a stem in transit."""
        return check_key(f"outcomes/{self.name}.json")


def parse_key(key: str) -> ParsedKey | None:
    """Return the parts of a key that this module has built, or None for any other key."""
    match = _OBJECT.fullmatch(key)
    if match is None:
        return None
    kind = ObjectKind(str(match.lastgroup))
    return ParsedKey(kind, match[kind])


def is_private(key: str) -> bool:
    """Return whether the object is for the services alone, so that no client ever receives a link to it."""
    return key.startswith(PRIVATE_PREFIXES)


def stem_key(task_uuid: UUID, stem: str, format: OutputFormat) -> str:
    """Return the key of a finished stem: ``{task_uuid}_{stem}.{extension}``."""
    return check_key(f"{stem_prefix(task_uuid)}{_segment(stem_segment(stem))}.{format.extension}")


def stem_prefix(task_uuid: UUID) -> str:
    """Return the beginning of the keys of all finished stems of the task."""
    return f"{task_uuid}_"


def staged_key(task_uuid: UUID, stem: str, digest: str, format: OutputFormat) -> str:
    """Return the key of a finished stem before the task's outcome is decided; ``digest`` is that of its source."""
    return check_key(
        f"{staged_prefix(task_uuid)}{_segment(stem_segment(stem))}-{_segment(digest[:16])}.{format.extension}"
    )


def staged_prefix(task_uuid: UUID) -> str:
    """Return the beginning of the keys of all stems of the task that wait for its outcome."""
    return f"staged/{task_uuid}_"


def handoff_key(task_uuid: UUID, run: str, stem: str, sha256: str) -> str:
    """Return the key of a stem in transit from processor to uploader: ``handoff/{task_uuid}/{stem}-{hash}.wav``.

    The key contains a part of the content's hash, because a GPU may not produce the same bits twice: the stems of a
    repeated job must not replace those that an earlier result still refers to.
    """
    return check_key(f"{handoff_prefix(task_uuid, run)}{_segment(stem_segment(stem))}-{_segment(sha256[:16])}.wav")


def handoff_prefix(task_uuid: UUID, run: str) -> str:
    """Return the beginning of the keys of all stems of the task, or of a requested repeat, in transit."""
    return f"handoff/{task_uuid}_{run}/" if run else f"handoff/{task_uuid}/"


def outcome_key(task_uuid: UUID, run: str) -> str:
    """Return the key of the single outcome of a task, or of a requested repeat: ``outcomes/{task_uuid}.json``."""
    task = f"{task_uuid}_{run}" if run else f"{task_uuid}"
    return check_key(f"outcomes/{task}.json")


def check_public_key(key: str) -> str:
    """Return ``key`` unchanged. Raises PermanentError unless it is well formed and that of an object for clients."""
    if is_private(check_key(key)):
        raise PermanentError("there are no links to this object", code=ErrorCode.STORAGE_REFUSED)
    return key


def check_key(key: str) -> str:
    """Return ``key`` unchanged. Raises PermanentError (code ``storage_refused``) unless it is well formed."""
    for segment in key.split("/"):
        _segment(segment)
    if len(key) > MAX_KEY_LENGTH:
        raise PermanentError("the object key is too long", code=ErrorCode.STORAGE_REFUSED)
    return key


def _segment(text: str) -> str:
    """Return ``text`` unchanged. Raises PermanentError unless it is exactly one well-formed segment."""
    if len(text) > MAX_SEGMENT_LENGTH or ".." in text or text == "." or not _SEGMENT.fullmatch(text):
        raise PermanentError("the object key is malformed", code=ErrorCode.STORAGE_REFUSED)
    return text
