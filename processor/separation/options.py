"""What the operator wants of the device that networks run on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from config import Compile, DeviceSettings, Precision


@dataclass(frozen=True, slots=True)
class DeviceOptions:
    """See the settings of the same names in ``config.DeviceSettings``. The defaults are what a CPU does in any case."""

    precision: Precision = Precision.AUTO
    compile: Compile = Compile.NONE
    batch: int = 4
    tensorrt: bool = False
    engines: Path | None = None
    """Folder in which TensorRT keeps what it has built, weights and all; None: they are built at every start."""

    @classmethod
    def from_settings(cls, settings: DeviceSettings, *, keep_engines: bool) -> DeviceOptions:
        """The options that the environment asks for. ``keep_engines``: not if models must not lie about in the
        clear."""
        return cls(
            precision=settings.precision,
            compile=settings.compile,
            batch=settings.batch,
            tensorrt=settings.tensorrt,
            engines=settings.tensorrt_dir.absolute() if keep_engines else None,
        )
