"""What the processor and the child process that owns the model say to each other, over a pipe of their own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import ErrorCode, ErrorKind


@dataclass(frozen=True, slots=True)
class ChildSettings:
    """What the child needs to know at its start."""

    model_dir: Path
    model_name: str
    require_gpu: bool
    scratch_dir: Path
    """For the child's own working files."""


@dataclass(frozen=True, slots=True)
class Stem:
    """A stem on disk: float32 WAV at the song's own level."""

    name: str
    path: Path
    sha256: str
    bytes: int
    frames: int
    sample_rate: int
    channels: int
    peak: float


# --- to the child ---


@dataclass(frozen=True, slots=True)
class Separate:
    """Separate ``mixture`` (peak 1.0) into ``folder``; ``peak`` is the song's own."""

    job: int
    mixture: Path
    peak: float
    frames: int
    folder: Path
    model: str
    stems: tuple[str, ...] | None
    """Which stems are wanted; None: all."""


@dataclass(frozen=True, slots=True)
class Cancel:
    """Stop working on the job."""

    job: int


# --- from the child ---


@dataclass(frozen=True, slots=True)
class Ready:
    """The model is loaded and has been run once."""

    model: str
    device: str
    seconds: float


@dataclass(frozen=True, slots=True)
class SetupFailed:
    """The child cannot work at all; it has ended."""

    code: ErrorCode
    message: str


@dataclass(frozen=True, slots=True)
class Progress:
    """``fraction`` (0 to 1) of the job is done."""

    job: int
    fraction: float


@dataclass(frozen=True, slots=True)
class Done:
    """The job's stems are on disk."""

    job: int
    stems: tuple[Stem, ...]
    model: str
    device: str


@dataclass(frozen=True, slots=True)
class Failed:
    """The job failed; the child is fit for the next one."""

    job: int
    kind: ErrorKind
    code: ErrorCode
    message: str


@dataclass(frozen=True, slots=True)
class Fatal:
    """The job failed and the child cannot be trusted any more: it must be replaced."""

    job: int
    message: str


Command = Separate | Cancel
Report = Ready | SetupFailed | Progress | Done | Failed | Fatal
