"""``python -m benchmarks.gpu.worker SPEC``: measures one network in one variant, prints a line of JSON.

Each variant has its own process, so that allocations, compiled code and settings do not affect the next one.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray

from benchmarks.engines import offline_engine, upstream_separator
from benchmarks.gpu.figures import Figures, Spec
from benchmarks.gpu.meter import metered
from benchmarks.gpu.variants import UPSTREAM
from config import Compile, Precision
from demo.sdr import sdr_db
from processor.ipc import Separate
from processor.separation.options import DeviceOptions
from processor.system.ffmpeg import put_ffmpeg_on_path

Separation = Callable[[Path], dict[str, Path]]
"""Separates a song and returns the files of its stems by name."""


def run(spec: Spec) -> Figures:
    """Load the model, warm it up, separate the song, and return the figures."""
    folder, song = Path(spec.folder), Path(spec.song)
    put_ffmpeg_on_path(folder)
    started = time.perf_counter()
    separate = _upstream(spec) if spec.variant == UPSTREAM else _engine(spec)
    separate(song)
    load = time.perf_counter() - started
    cuda = torch.cuda.is_available()
    walls, stems = [], {}
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    with metered(_uuid() if cuda else None) as reading:
        for _ in range(spec.repeats):
            started = time.perf_counter()
            stems = separate(song)
            walls.append(time.perf_counter() - started)
    return Figures(
        walls=walls,
        load=load,
        device=torch.cuda.get_device_name() if cuda else "cpu",
        allocated=torch.cuda.max_memory_allocated() if cuda else None,
        device_peak=reading.peak,
        busy=reading.busy,
        joules=None if reading.joules is None else reading.joules / spec.repeats,
        snr=_worst(stems, Path(spec.reference)) if spec.reference else None,
    )


def _uuid() -> str:
    return f"GPU-{torch.cuda.get_device_properties(0).uuid}"


def _engine(spec: Spec) -> Separation:
    """Return a function that separates a mixture with the engine: float stems on the disk, and their hashes.

    Decoding is not included: in the service, the parent process decodes.
    """
    options = DeviceOptions(Precision(spec.precision), Compile(spec.compile))
    folder = Path(spec.folder)
    engine = offline_engine(Path(spec.models), folder, options)
    engine.load(spec.model)

    def separate(song: Path) -> dict[str, Path]:
        job = Separate(1, song, 1.0, soundfile.info(song).frames, folder, spec.model, None)
        return {stem.name: stem.path for stem in engine.separate(job, lambda _fraction: None)}

    return separate


def _upstream(spec: Spec) -> Separation:
    """Return a function that separates a song with audio-separator's defaults."""
    separator = upstream_separator(Path(spec.models), Path(spec.folder))
    separator.load_model(spec.model)

    def separate(song: Path) -> dict[str, Path]:
        if not separator.separate(str(song)):
            raise RuntimeError("audio-separator wrote no stems")
        return {}  # not comparable: 16 bits, and scaled

    return separate


def _worst(stems: dict[str, Path], reference: Path) -> float | None:
    if not stems:
        return None
    return min(sdr_db(_samples(reference / path.name), _samples(path)) for path in stems.values())


def _samples(path: Path) -> NDArray[np.float64]:
    samples: NDArray[np.float64] = soundfile.read(path)[0]
    return samples.T


def main(spec: str) -> None:
    """Write the figures to the standard output."""
    fields: dict[str, Any] = json.loads(spec)
    sys.stdout.write(f"\n{json.dumps(asdict(run(Spec(**fields))))}\n")


if __name__ == "__main__":
    main(sys.argv[1])
