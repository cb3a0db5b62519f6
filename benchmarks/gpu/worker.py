"""``python -m benchmarks.gpu.worker SPEC``: one network, one variant, warm; its figures as a line of JSON.

A process of its own for each: what one allocates, compiles and sets is not the next one's.
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

from benchmarks.engines import our_engine, stock_separator
from benchmarks.gpu.figures import Figures, Spec
from benchmarks.gpu.meter import metered
from benchmarks.gpu.variants import STOCK
from config import Compile, Precision
from demo.sdr import sdr_db
from processor.ipc import Separate
from processor.separation.options import DeviceOptions
from processor.system.ffmpeg import put_ffmpeg_on_path

Separation = Callable[[Path], dict[str, Path]]
"""Separates a song; the files of its stems by name."""


def run(spec: Spec) -> Figures:
    """Load, warm up, separate."""
    folder, song = Path(spec.folder), Path(spec.song)
    put_ffmpeg_on_path(folder)
    started = time.perf_counter()
    separate = _stock(spec) if spec.variant == STOCK else _ours(spec)
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


def _ours(spec: Spec) -> Separation:
    """The engine: a mixture to float stems on the disk, hashed. Decoding is the parent's in the service."""
    options = DeviceOptions(Precision(spec.precision), Compile(spec.compile))
    folder = Path(spec.folder)
    engine = our_engine(Path(spec.models), folder, options)
    engine.load(spec.model)

    def separate(song: Path) -> dict[str, Path]:
        job = Separate(1, song, 1.0, soundfile.info(song).frames, folder, spec.model, None)
        return {stem.name: stem.path for stem in engine.separate(job, lambda _fraction: None)}

    return separate


def _stock(spec: Spec) -> Separation:
    """A ``Separator`` with its defaults, and no model but this one."""
    separator = stock_separator(Path(spec.models), Path(spec.folder))
    separator.load_model(spec.model)

    def separate(song: Path) -> dict[str, Path]:
        if not separator.separate(str(song)):
            raise RuntimeError("the library gave no stems")
        return {}  # 16 bits, and scaled: not to be compared

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
