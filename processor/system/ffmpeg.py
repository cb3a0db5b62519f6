"""The ``ffmpeg`` that audio-separator asks for at its start, though we have it decode and encode nothing."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path


def put_ffmpeg_on_path(folder: Path) -> None:
    """Unless there is one, link the one that a wheel brought along into ``folder``. Raises OSError."""
    if shutil.which("ffmpeg"):
        return
    import imageio_ffmpeg

    link = folder / "bin" / "ffmpeg"
    link.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):  # another child's, perhaps of this very moment
        link.symlink_to(imageio_ffmpeg.get_ffmpeg_exe())
    os.environ["PATH"] = f"{link.parent.resolve()}{os.pathsep}{os.environ.get('PATH', '')}"
