"""Options for the device that networks run on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from config import Compile, DeviceSettings, Precision


@dataclass(frozen=True, slots=True)
class DeviceOptions:
    """See the settings of the same names in ``config.DeviceSettings``. The defaults do not change how a CPU runs."""

    precision: Precision = Precision.AUTO
    compile: Compile = Compile.NONE
    batch: int = 4
    tensorrt: bool = False
    engines: Path | None = None
    """Folder in which TensorRT caches built engines, which contain the weights; None: they are rebuilt at every
    start."""

    @classmethod
    def from_settings(cls, settings: DeviceSettings, *, keep_engines: bool) -> DeviceOptions:
        """Return the options that the settings ask for.

        ``keep_engines``: False if decrypted weights must not be stored on the disk.
        """
        return cls(
            precision=settings.precision,
            compile=settings.compile,
            batch=settings.batch,
            tensorrt=settings.tensorrt,
            engines=settings.tensorrt_dir.absolute() if keep_engines else None,
        )
