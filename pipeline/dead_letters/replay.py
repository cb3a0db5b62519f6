"""Sending letters on their way again, and remembering it.

The message is durable before the mark that says so. A crash in between, or two operators at once, replay it twice, and
that changes nothing: the second is the first to the byte, and everything downstream keeps one outcome for each task and
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
from pipeline.topics import Topics
from pipeline.transport.protocol import Message, Transport, require_storable

#: Where a replayed message lay among the dead letters.
REPLAYED_FROM = "replayed-from"

#: Letters that are marked together: what a crash may leave to be replayed twice.
_BATCH = 100


@dataclass(frozen=True, slots=True)
class Replay:
    """A letter and the message that it becomes."""

    letter: Letter
    message: Message
    run: str
    """The name of the repeat, where it has an outcome of its own; else empty."""


def prepare(letter: Letter, topics: Topics) -> Replay:
    """What replaying ``letter`` publishes. Raises PermanentError, saying why, if it cannot be replayed."""
    if not letter.topic:
        raise _refused("the letter does not say which topic it came from")
    if letter.is_cut:
        kept, whole = len(letter.message.value), letter.original_bytes
        raise _refused(f"only {kept} of its {whole} bytes were kept, since the whole was too large for the broker")
    if letter.topic not in (*topics.jobs, topics.results):
        raise _refused(f"it came from the topic {letter.topic}, which nobody reads under the present settings")
    value, run = letter.message.value, ""
    if _has_had_its_outcome(letter):
        value, run = _as_new_run(value, _run_name(letter), nested=letter.topic == topics.results)
    message = Message(letter.topic, letter.key, value, _headers(letter))
    require_storable([message])
    return Replay(letter, message, run)


def replay(transport: Transport, prepared: Sequence[Replay]) -> Iterator[Replay]:
    """Publish the messages and mark their letters; each is given once both are durable. Raises PipelineError."""
    for start in range(0, len(prepared), _BATCH):
        batch = prepared[start : start + _BATCH]
        transport.publish(*(item.message for item in batch))
        transport.publish(*(mark(item.letter, Resolution.REPLAYED) for item in batch))
        yield from batch


def drop(transport: Transport, dropped: Sequence[Letter]) -> None:
    """Mark the letters as of no further use. They stay in the topic. Raises PipelineError."""
    transport.publish(*(mark(letter, Resolution.DROPPED) for letter in dropped))


def _has_had_its_outcome(letter: Letter) -> bool:
    """Whether the client was told of a failure when the letter was written.

    Poison was: its job is quarantined and failed in one step. So was a job whose outcome was too large to be stored.
    Any other letter is there because the client could not be told.
    """
    return letter.kind == ErrorKind.POISON or ORIGINAL_BYTES in letter.message.headers


def _run_name(letter: Letter) -> str:
    """The same for every try of one replay; another one for each replay that was asked for after the first."""
    repeat = f"-{letter.replays + 1}" if letter.replays else ""
    return f"r{letter.position.partition}-{letter.position.offset}{repeat}"


def _as_new_run(value: bytes, run: str, *, nested: bool) -> tuple[bytes, str]:
    """The job, or the result with the job in it (``nested``), under the name ``run``.

    What is neither, nobody can have had an outcome of: it stays as it is. The fields that this version does not know
    stay as well, as a newer one may have written them.
    """
    try:
        body: Any = json.loads(value.decode())
    except (ValueError, RecursionError):
        return value, ""
    job = body.get("task") if nested and isinstance(body, dict) else body
    if not isinstance(job, dict):
        return value, ""
    job["run"] = run
    job["separations"] = 1
    return json.dumps(body, separators=(",", ":")).encode(), run


def _headers(letter: Letter) -> dict[str, bytes]:
    """Those that the message had when it was published first: a replay begins with a clean sheet."""
    return original_headers(letter.message.headers) | {REPLAYED_FROM: str(letter.position).encode()}


def _refused(why: str) -> PermanentError:
    return PermanentError(f"cannot be replayed: {why}", code=ErrorCode.MESSAGE_INVALID)
