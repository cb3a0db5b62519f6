"""Constructors of the two engines that benchmarks compare. Import only in processes that may load a model."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from config import ModelSettings
from pipeline.cancellation import CancelToken
from pipeline.download import UrlGuard
from processor.audio.decode import decode
from processor.engine.engine import SeparationEngine
from processor.ipc import Separate, Stem
from processor.models import ModelDownloads, ModelStore
from processor.separation.options import DeviceOptions

#: Maximum length of a song, s.
_MAX_SECONDS = 86_400.0


def offline_engine(model_dir: Path, folder: Path, device: DeviceOptions | None = None) -> SeparationEngine:
    """Return an engine that uses the models in ``model_dir`` without downloads. ``folder``: for its working files."""
    settings = ModelSettings(model_dir=model_dir, offline=True)
    store = ModelStore(settings, ModelDownloads(UrlGuard(allow_private=False)))
    return SeparationEngine(store, folder, device=device)


def separate_file(engine: SeparationEngine, model: str, song: Path, folder: Path) -> tuple[Stem, ...]:
    """Process a downloaded song as the processor does: decode, scale, separate, write float stems and hash them.

    Raises what ``decode`` and the engine raise.
    """
    mixture = decode(song, folder, max_seconds=_MAX_SECONDS, cancel=CancelToken())
    job = Separate(1, mixture.path, mixture.peak, mixture.frames, folder, model, None)
    return engine.separate(job, lambda _fraction: None)


def upstream_separator(model_dir: Path, folder: Path) -> Any:
    """Return audio-separator's ``Separator`` with its defaults. ``folder``: for the stems."""
    from audio_separator.separator import Separator

    return Separator(
        log_level=logging.WARNING, model_file_dir=str(model_dir), output_dir=str(folder), output_format="WAV"
    )
