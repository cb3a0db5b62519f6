"""This engine and audio-separator as the benchmarks run them. Imported only where a model may be loaded."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from pipeline.cancellation import CancelToken
from pipeline.download import UrlGuard
from processor.audio.decode import decode
from processor.engine.engine import SeparationEngine
from processor.ipc import Separate, Stem
from processor.models import ModelDownloads, ModelStore, StoreOptions
from processor.separation.options import DeviceOptions

#: Longer than any song, s.
_LONGEST = 86_400.0


def our_engine(model_dir: Path, folder: Path, device: DeviceOptions | None = None) -> SeparationEngine:
    """This engine with the models that are in ``model_dir``, and no others; ``folder`` is for its working files."""
    store = ModelStore(model_dir, ModelDownloads(UrlGuard(allow_private=False)), StoreOptions(offline=True))
    return SeparationEngine(store, folder, device=device)


def separate_file(engine: SeparationEngine, model: str, song: Path, folder: Path) -> tuple[Stem, ...]:
    """What the processor does with a song that it has fetched: decode and scale, separate, write float stems, hash
    them. Raises what ``decode`` and the engine raise."""
    mixture = decode(song, folder, max_seconds=_LONGEST, cancel=CancelToken())
    job = Separate(1, mixture.path, mixture.peak, mixture.frames, folder, model, None)
    return engine.separate(job, lambda _fraction: None)


def stock_separator(model_dir: Path, folder: Path) -> Any:
    """A ``Separator`` as its documentation has it, with its defaults; ``folder`` is for the stems."""
    from audio_separator.separator import Separator

    return Separator(
        log_level=logging.WARNING, model_file_dir=str(model_dir), output_dir=str(folder), output_format="WAV"
    )
