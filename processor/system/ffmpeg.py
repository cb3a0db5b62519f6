"""Provide the ``ffmpeg`` program, which audio-separator requires at its start although it is never used here."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path


def put_ffmpeg_on_path(folder: Path) -> None:
    """Link the ``ffmpeg`` of the imageio-ffmpeg wheel into ``folder``, unless PATH has one. Raises OSError."""
    if shutil.which("ffmpeg"):
        return
    import imageio_ffmpeg

    link = folder / "bin" / "ffmpeg"
    link.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):  # another child has created it, perhaps at this moment
        link.symlink_to(imageio_ffmpeg.get_ffmpeg_exe())
    os.environ["PATH"] = f"{link.parent.resolve()}{os.pathsep}{os.environ.get('PATH', '')}"
