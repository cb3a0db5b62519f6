"""The operator's options for model files, as plain values that are sent to the child process."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from config import ModelSettings

#: The suffix of the names of encrypted ("sealed") files.
SUFFIX = ".sealed"


@dataclass(frozen=True, slots=True)
class StoreOptions:
    """The settings of the same names in ``config.ModelSettings``."""

    offline: bool = False
    mirrors: tuple[str, ...] = ()
    """The addresses of folders, without a slash at the end."""
    key_file: Path | None = None
    key_command: str | None = None
    plain_dir: Path = Path("/dev/shm")

    @classmethod
    def from_settings(cls, settings: ModelSettings) -> StoreOptions:
        """Create from the settings, with absolute paths."""
        return cls(
            offline=settings.offline,
            mirrors=settings.mirrors,
            key_file=settings.key_file.absolute() if settings.key_file else None,
            key_command=settings.key_command,
            plain_dir=settings.plain_dir.absolute(),
        )

    @property
    def seals(self) -> bool:
        """True if downloaded files are encrypted."""
        return bool(self.key_file or self.key_command)
