"""Provide an ffmpeg on PATH for `audio-separator`."""

from __future__ import annotations

from pathlib import Path

import imageio_ffmpeg
import pytest


@pytest.fixture(scope="module")
def ffmpeg_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder for PATH; the binary of `imageio-ffmpeg` itself has its version in its name."""
    folder = tmp_path_factory.mktemp("bin")
    (folder / "ffmpeg").symlink_to(imageio_ffmpeg.get_ffmpeg_exe())
    return folder
