"""Functions that tests of several models run in the process with audio-separator (fixture ``upstream_process``)."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import soundfile
from structlog.testing import capture_logs

from demo import tiny_models
from demo.random_network import Metadata, Shape, install_random_model
from pipeline.cancellation import CancelToken
from pipeline.errors import ErrorCode
from pipeline.model_choice import Ensemble
from processor.audio.decode import Mixture
from processor.ipc import Separate, Stem
from tests.processor.models.model_source import store_in
from tests.processor.separation import upstream_calls

if TYPE_CHECKING:
    from processor.engine.engine import SeparationEngine

MDX, MDXC, DEMUCS = "tiny.onnx", "tiny.ckpt", "four.yaml"
#: The stems of each model.
STEMS = {
    MDX: ("vocals", "instrumental"),
    MDXC: ("vocals", "other"),
    DEMUCS: ("drums", "bass", "other", "vocals"),
}
SMALL = Shape(4096, 2048, 8, growth=3, levels=1, convolutions=1, bottleneck=64)
#: 19 MB of weights.
WIDE = replace(SMALL, bottleneck=4)


def write_models(model_dir: Path) -> None:
    """Write an MDX, an MDXC and a Demucs model."""
    tiny_models.write_mdxc(model_dir, ["vocals", "other"])
    demucs_dir = model_dir / "demucs"
    demucs_dir.mkdir()
    config, weights = tiny_models.write_demucs(demucs_dir)
    (demucs_dir / config).rename(model_dir / DEMUCS)
    (demucs_dir / weights).rename(model_dir / weights)
    demucs_dir.rmdir()
    lists = json.loads((model_dir / "download_checks.json").read_text())
    files = {name: f"http://127.0.0.1:1/{name}" for name in (weights, DEMUCS)}
    lists["demucs_download_list"] = {"Demucs v4: four": files}
    (model_dir / "download_checks.json").write_text(json.dumps(lists))
    install_random_model(model_dir, MDX, SMALL, Metadata("Vocals", 1.0))


def cache_events(
    model_dir: Path, scratch: Path, names: Sequence[str], *, limit: int | None, preferred: str | None = None
) -> list[tuple[str, str, int]]:
    """Load these models in order and return what the cache logs: the event, the model, its bytes."""
    engine = _engine(model_dir, scratch, limit, preferred)
    with capture_logs() as lines:
        for name in names:
            engine.load(name)
    return [
        (line["event"].removeprefix("model_"), line["model"], line["bytes"]) for line in lines if "pool_limit" in line
    ]


def stem_hashes(model_dir: Path, scratch: Path, mixture: Mixture, names: Sequence[str]) -> list[set[str]]:
    """Return the hashes of the stems of each model, from one engine that keeps all models loaded."""
    engine = _engine(model_dir, scratch, limit=None)
    runs = [engine.separate(_job(mixture, scratch, name), lambda _fraction: None) for name in names]
    return [{stem.sha256 for stem in stems} for stems in runs]


def resident_bytes(model_dir: Path, scratch: Path, mixture: Mixture, rounds: int) -> list[int]:
    """Return the resident bytes of this process after each round in which two large models evict each other."""
    for seed in (1, 2):
        install_random_model(model_dir, f"wide {seed}.onnx", WIDE, Metadata("Vocals", 1.0), seed=seed)
    engine = _engine(model_dir, scratch, limit=1)
    resident = []
    for _ in range(rounds):
        for seed in (1, 2):
            engine.separate(_job(mixture, scratch, f"wide {seed}.onnx"), lambda _fraction: None)
        resident.append(psutil.Process().memory_info().rss)
    return resident


def separated(
    model_dir: Path,
    scratch: Path,
    mixture: Mixture,
    folder: Path,
    model: str | Ensemble,
    *,
    stems: tuple[str, ...] | None = None,
    cancel_at: float | None = None,
    limit: int | None = None,
) -> tuple[tuple[Stem, ...] | upstream_calls.Refusal, list[float], list[str], str]:
    """Return the stems or the error, the progress, the events of the model cache, and the device.

    Each call uses a new engine, without loaded models.
    """
    engine = _engine(model_dir, scratch, limit)
    progress: list[float] = []
    cancel = CancelToken()

    def on_progress(fraction: float) -> None:
        progress.append(fraction)
        if cancel_at is not None and fraction >= cancel_at:
            cancel.cancel(ErrorCode.SHUTTING_DOWN)
        cancel.raise_if_set()

    with capture_logs() as lines:
        outcome = upstream_calls.classified(
            lambda: engine.separate(replace(_job(mixture, folder, model), stems=stems), on_progress)
        )
    events = [f"{line['event'].removeprefix('model_')} {line['model']}" for line in lines if "pool_limit" in line]
    return outcome, progress, events, engine.device


def upstream_combined(stems: Sequence[Path], algorithm: str, weights: list[float] | None) -> Any:
    """Return the stems ``(frames, channels)``, combined by audio-separator's own Ensembler."""
    from audio_separator.separator.ensembler import Ensembler

    waves = [soundfile.read(stem, dtype="float32")[0].T for stem in stems]
    return np.asarray(Ensembler(logging.getLogger(__name__), algorithm, weights).ensemble(waves), np.float32).T


def upstream_ensemble_stems(model_dir: Path, scratch: Path, mixture: Mixture, models: list[str]) -> set[str]:
    """Return the names of the stems of audio-separator's own ensemble."""
    separator = upstream_calls.upstream_separator(model_dir, scratch)
    separator.load_model(models)
    files = separator.separate(str(mixture.path))
    return {Path(file).name.partition("_(")[2].partition(")")[0] for file in files}


def _engine(model_dir: Path, scratch: Path, limit: int | None, preferred: str | None = None) -> SeparationEngine:
    from processor.engine.engine import SeparationEngine

    return SeparationEngine(store_in(model_dir), scratch, preferred=preferred, pool_bytes=limit)


def _job(mixture: Mixture, folder: Path, model: str | Ensemble) -> Separate:
    return Separate(1, mixture.path, mixture.peak, mixture.frames, folder, model, None)
