"""An ffmpeg for `audio-separator`, which looks for one on PATH."""

from __future__ import annotations

from pathlib import Path

import imageio_ffmpeg
import pytest


@pytest.fixture(scope="module")
def ffmpeg_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for PATH: the binary that `imageio-ffmpeg` carries has its version in its name."""
    folder = tmp_path_factory.mktemp("bin")
    (folder / "ffmpeg").symlink_to(imageio_ffmpeg.get_ffmpeg_exe())
    return folder
