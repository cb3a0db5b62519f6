"""What the processor and the child process that owns the model say to each other, over a pipe of their own."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from config import DownloadSettings, LogSettings
from pipeline.errors import ErrorCode, ErrorKind
from pipeline.model_choice import Ensemble
from processor.models.options import StoreOptions
from processor.separation.options import DeviceOptions


@dataclass(frozen=True, slots=True)
class ChildSettings:
    """What the child needs to know at its start."""

    model_dir: Path
    model_name: str
    require_gpu: bool
    scratch_dir: Path
    """For the child's own working files."""
    download: DownloadSettings = field(default_factory=DownloadSettings)
    """How model files are fetched."""
    models: StoreOptions = field(default_factory=StoreOptions)
    log: LogSettings = field(default_factory=LogSettings)
    pool_bytes: int | None = None
    """What loaded models of all children there may take together; None: a share of the memory that they are in."""
    on_device: int = 1
    """How many children share the child's device."""
    in_all: int = 1
    """How many children share the machine."""
    threads: int | None = None
    """Of networks on the CPU; None: as many as the libraries choose."""
    device: DeviceOptions = field(default_factory=DeviceOptions)
    """How networks are run."""


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
    model: str | Ensemble
    """The name of a model or a preset, or an ensemble."""
    stems: tuple[str, ...] | None
    """Which stems are wanted; None: all."""
    task_uuid: str | None = None
    """For the child's log."""


@dataclass(frozen=True, slots=True)
class Cancel:
    """Stop working on the job."""

    job: int


# --- from the child ---


@dataclass(frozen=True, slots=True)
class Ready:
    """The model that jobs get by default is loaded."""

    model: str
    device: str
    seconds: float


@dataclass(frozen=True, slots=True)
class LoadedModels:
    """These models are loaded. Told before ``Ready``, and before a job's end."""

    models: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SetupFailed:
    """The child cannot work at all; it ends."""

    code: ErrorCode
    message: str


@dataclass(frozen=True, slots=True)
class Started:
    """The child loads a model for the job: if it ends from here on, the job has to do with it.

    Told again before each further model of an ensemble, and each further try when memory ran out.
    """

    job: int


@dataclass(frozen=True, slots=True)
class ModelLoaded:
    """The model is loaded: the time that it may take for the song runs from here."""

    job: int


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
    """What has separated: a model's name, or ``str`` of an ensemble."""
    device: str
    degraded: tuple[str, ...] = ()
    """What was given up because memory ran out."""


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
JobReport = Started | ModelLoaded | Progress | Done | Failed | Fatal
Report = Ready | SetupFailed | LoadedModels | JobReport
