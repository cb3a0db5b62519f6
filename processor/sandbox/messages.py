"""The messages between the processor, its decoding server and the server's disposable processes.

A process that was taken over by its file can send them too: every field has a narrow type.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field, FiniteFloat, PositiveInt

from pipeline.errors import ErrorCode
from processor.audio.track import SampleFormat
from processor.sandbox.confinement import Protections
from processor.system.channel import Schema

Sentence = Annotated[str, Field(max_length=400)]

# --- to the process ---


@dataclass(frozen=True, slots=True)
class Confine:
    """Command: restrict yourself to ``folder`` and to songs of up to ``max_seconds`` s. The first command."""

    folder: Path
    max_seconds: FiniteFloat


@dataclass(frozen=True, slots=True)
class Examine:
    """Command: check that ``source`` is audio."""

    source: Path


@dataclass(frozen=True, slots=True)
class Decode:
    """Command: decode ``source``."""

    source: Path


# --- from the process ---


@dataclass(frozen=True, slots=True)
class Confined:
    """The process is confined by ``protections``."""

    protections: Protections


@dataclass(frozen=True, slots=True)
class Examined:
    """The source is audio of this format, according to its header."""

    form: SampleFormat


@dataclass(frozen=True, slots=True)
class Decoded:
    """The source is decoded: the fields of a ``Mixture``, without its path."""

    peak: Annotated[FiniteFloat, Field(ge=0)]
    frames: PositiveInt
    notes: Annotated[tuple[Sentence, ...], Field(max_length=20)]
    source_rate: Annotated[int, Field(ge=1_000, le=1_000_000)]
    source_frames: PositiveInt | None
    bits: Annotated[int, Field(ge=16, le=24)]


@dataclass(frozen=True, slots=True)
class Refused:
    """The source is refused, or a local file cannot be read or written."""

    permanent: bool
    """The source is the reason, not the disk."""
    code: ErrorCode
    message: Sentence


# --- from the server ---


@dataclass(frozen=True, slots=True)
class ProcessEnded:
    """The process has exited with ``status``: as in ``subprocess``, the negative number of a signal if one ended it."""

    status: int
    output: str
    """The end of what it wrote to its standard error."""


@dataclass(frozen=True, slots=True)
class NotForked:
    """The server could not start a process. ``reason``: the system's description."""

    reason: str


SandboxCommand = Confine | Examine | Decode
SandboxReply = Confined | Examined | Decoded | Refused
ServerReport = ProcessEnded | NotForked

SANDBOX_COMMANDS = Schema[SandboxCommand]("sandbox command", 1, Confine, Examine, Decode)
SANDBOX_REPLIES = Schema[SandboxReply]("sandbox reply", 1, Confined, Examined, Decoded, Refused)
SERVER_REPORTS = Schema[ServerReport]("sandbox server report", 1, ProcessEnded, NotForked)
