"""Replays dead letters and records the replay.

The message is durable before the mark of its replay. A crash in between, or two operators at once, publish it twice.
That is harmless: both messages are identical to the byte, and every later stage keeps one outcome for each task and
run.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.consuming.retry_headers import ORIGINAL_BYTES, original_headers
from pipeline.dead_letters.letter import Letter, Resolution, mark
from pipeline.errors import ErrorCode, ErrorKind, PermanentError
from pipeline.messages import unread_failure
from pipeline.topics import Topics
from pipeline.transport.protocol import Message, Transport, check_message_sizes

#: Header of a replayed message: the position of its letter.
REPLAYED_FROM = "replayed-from"

#: Letters that are marked together. A crash may leave this many to be replayed twice.
_BATCH = 100


@dataclass(frozen=True, slots=True)
class Replay:
    """A letter and the message to publish for it."""

    letter: Letter
    message: Message
    run: str
    """The name of the new run if the repeat has an outcome of its own; else empty."""


def prepare(letter: Letter, topics: Topics) -> Replay:
    """Return the replay of ``letter``. Raises PermanentError with the reason if it cannot be replayed."""
    problem = None
    if not letter.topic:
        problem = "the letter does not name the topic that it came from"
    elif letter.is_truncated:
        kept, whole = len(letter.message.value), letter.original_bytes
        problem = f"only {kept} of its {whole} bytes were kept, since the whole was too large for the broker"
    elif letter.topic not in (*topics.jobs, topics.results):
        problem = f"it came from the topic {letter.topic}, which no service reads under the present settings"
    if problem:
        raise PermanentError(f"cannot be replayed: {problem}", code=ErrorCode.MESSAGE_INVALID)

    value, run = letter.message.value, ""
    # A poison job is quarantined and reported to the client as failed in one step. So is a job whose outcome was too
    # large to be stored, or whose message could not be read although its envelope could. Every other letter exists
    # because the client could not be notified, so it has no outcome yet.
    if letter.kind == ErrorKind.POISON or ORIGINAL_BYTES in letter.message.headers or _was_unread(letter):
        value, run = _as_new_run(letter, nested=letter.topic == topics.results)
    # The headers of the first publication: a replay starts with no attempts spent.
    headers = original_headers(letter.message.headers) | {REPLAYED_FROM: str(letter.position).encode()}
    message = Message(letter.topic, letter.key, value, headers)
    check_message_sizes([message])
    return Replay(letter, message, run)


def replay(transport: Transport, prepared: Sequence[Replay]) -> Iterator[Replay]:
    """Publish the messages and mark their letters; yield each once both are durable. Raises PipelineError."""
    for start in range(0, len(prepared), _BATCH):
        batch = prepared[start : start + _BATCH]
        transport.publish(*(item.message for item in batch))
        transport.publish(*(mark(item.letter, Resolution.REPLAYED) for item in batch))
        yield from batch


def drop(transport: Transport, letters: Sequence[Letter]) -> None:
    """Mark the letters as of no further use. They stay in the topic. Raises PipelineError."""
    transport.publish(*(mark(letter, Resolution.DROPPED) for letter in letters))


def _was_unread(letter: Letter) -> bool:
    """Return whether the message could not be read and its client received a failure."""
    if letter.code not in (ErrorCode.MESSAGE_INVALID, ErrorCode.MESSAGE_NEWER):
        return False
    error = PermanentError(letter.error, code=ErrorCode(letter.code))
    return unread_failure(letter.topic, letter.message, error) is not None


def _as_new_run(letter: Letter, *, nested: bool) -> tuple[bytes, str]:
    """Return the value with its job as a new run, and the name of the run. ``nested``: the job is part of a result.

    A retried replay uses the same name; each further replay of the letter uses another one. A value that holds no job
    is returned unchanged without a run. Fields that this version does not know are kept: a newer version may have
    written them.
    """
    value = letter.message.value
    try:
        body: Any = json.loads(value.decode())
    except (ValueError, RecursionError):
        return value, ""
    job = body.get("task") if nested and isinstance(body, dict) else body
    if not isinstance(job, dict):
        return value, ""
    repeat = f"-{letter.replays + 1}" if letter.replays else ""
    run = f"r{letter.position.partition}-{letter.position.offset}{repeat}"
    job["run"] = run
    job["separations"] = 1
    return json.dumps(body, separators=(",", ":")).encode(), run
