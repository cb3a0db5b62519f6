"""The messages between the processor and a child process that owns the models, sent over a dedicated pipe."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from pydantic import FiniteFloat, NonNegativeInt, SecretStr

from config import DownloadSettings, LogSettings, ModelSettings
from pipeline.errors import ErrorCode, ErrorKind
from pipeline.model_choice import Ensemble
from processor.separation.options import DeviceOptions
from processor.system.channel import Schema


@dataclass(frozen=True, slots=True)
class ChildSettings:
    """The settings that a child receives at its start."""

    model: ModelSettings
    scratch_dir: Path
    """Folder for the child's working files."""
    download: DownloadSettings = field(default_factory=DownloadSettings)
    """Settings for downloads of model files."""
    log: LogSettings = field(default_factory=LogSettings)
    children_on_device: int = 1
    """Number of children on the child's device, this one included."""
    children_on_machine: int = 1
    """Number of children on the machine, this one included."""
    threads: int | None = None
    """Threads for networks on the CPU; None: the libraries' default."""
    device: DeviceOptions = field(default_factory=DeviceOptions)
    """Options for running networks."""
    model_key: SecretStr | None = None
    """The key of encrypted models, in base64: the child has no credentials for the command that prints it."""


@dataclass(frozen=True, slots=True)
class Stem:
    """A stem on disk: float32 WAV at the original level of the song."""

    name: str
    path: Path
    sha256: str
    bytes: NonNegativeInt
    frames: NonNegativeInt
    sample_rate: NonNegativeInt
    channels: NonNegativeInt
    peak: FiniteFloat


# --- to the child ---


@dataclass(frozen=True, slots=True)
class Separate:
    """Command: separate ``mixture`` (peak 1.0) into ``folder``. ``peak`` is the original peak of the song."""

    job: int
    mixture: Path
    peak: float
    frames: int
    folder: Path
    model: str | Ensemble
    """The name of a model or a preset, or an ensemble."""
    stems: tuple[str, ...] | None
    """Names of the requested stems; None: all."""
    task_uuid: str | None = None
    """Task id for the child's log."""


@dataclass(frozen=True, slots=True)
class Cancel:
    """Command: stop working on the job."""

    job: int


# --- from the child ---


@dataclass(frozen=True, slots=True)
class Ready:
    """The default model is loaded."""

    model: str
    device: str
    seconds: FiniteFloat


@dataclass(frozen=True, slots=True)
class LoadedModels:
    """The names of the loaded models. Sent before ``Ready``, and before the end of each job."""

    models: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SetupFailed:
    """The child cannot start and exits."""

    code: ErrorCode
    message: str


@dataclass(frozen=True, slots=True)
class Started:
    """The child begins to load a model for the job: a crash from here on counts against the job.

    Sent again before each further model of an ensemble, and before each retry after out-of-memory.
    """

    job: int


@dataclass(frozen=True, slots=True)
class ModelLoaded:
    """The model is loaded: the timeout of the separation starts here."""

    job: int


@dataclass(frozen=True, slots=True)
class Progress:
    """``fraction`` (0 to 1) of the job is done."""

    job: int
    fraction: FiniteFloat


@dataclass(frozen=True, slots=True)
class Done:
    """The job's stems are on disk."""

    job: int
    stems: tuple[Stem, ...]
    model: str
    """Name of the model, or ``str`` of an ensemble."""
    device: str
    degraded: tuple[str, ...] = ()
    """Descriptions of the fallbacks taken after out-of-memory."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The job failed; the child can take the next one."""

    job: int
    kind: ErrorKind
    code: ErrorCode
    message: str


@dataclass(frozen=True, slots=True)
class Fatal:
    """The job failed and left the child in an unknown state: the child must be replaced."""

    job: int
    message: str


Command = ChildSettings | Separate | Cancel
JobReport = Started | ModelLoaded | Progress | Done | Failed | Fatal
Report = Ready | SetupFailed | LoadedModels | JobReport

COMMANDS = Schema[Command]("worker command", 2, ChildSettings, Separate, Cancel)
REPORTS = Schema[Report](
    "worker report", 1, Ready, SetupFailed, LoadedModels, Started, ModelLoaded, Progress, Done, Failed, Fatal
)
