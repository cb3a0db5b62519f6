"""audio-separator, driven: its loaders, its models, its arithmetic; our input, our output, our errors.

Runs in the child process only. What is changed against the stock way, and why:

* the mixture is fed at peak 1.0 with ``normalization_threshold=1.0`` and stems are scaled back afterwards: the stock
  MDX path is only consistent at exactly that peak, and loses up to 3 dB of SDR below it;
* stems are taken as float arrays where the library would write them: it writes 16 bits, truncated, under names that
  would have to be guessed from;
* the MDX path's second pass over the song is left out: its result is thrown away unless ``invert_using_spec`` is on,
  which it is not. The stems are bit for bit the same.
"""

from __future__ import annotations

import errno
import hashlib
import inspect
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from audio_separator.separator import InvalidAudioDataError, Separator
from numpy.typing import NDArray

from pipeline.errors import ErrorCode, PermanentError, PipelineError
from pipeline.telemetry import get_logger
from pipeline.workdir import disk_error
from processor.decode import CONTAINER, SAMPLE_RATE
from processor.models import ensure_model, unavailable
from processor.protocol import Separate, Stem

log = get_logger(__name__)

Samples = NDArray[np.float32]
OnProgress = Callable[[float], None]
"""Takes the share that is done, 0 to 1; raises CancelledError to stop the work."""


class StockEngine:
    """One ``audio_separator.Separator`` with one loaded model, which later jobs find warm."""

    def __init__(self, model_dir: Path, scratch_dir: Path) -> None:
        # The library reads this variable behind our back, and prefers it to what it is told.
        os.environ.pop("AUDIO_SEPARATOR_MODEL_DIR", None)
        _put_ffmpeg_on_path(scratch_dir)
        self._model_dir = model_dir
        self._scratch = Path(tempfile.mkdtemp(prefix="engine-", dir=scratch_dir))
        self._separator: Any = Separator(
            log_level=logging.WARNING,
            model_file_dir=str(model_dir),
            output_dir=str(self._scratch),
            output_format="WAV",
            normalization_threshold=1.0,
            amplification_threshold=0.0,
        )

    @property
    def device(self) -> str:
        """What the loaded model runs on: ``cpu``, or the GPU's kind and name."""
        model = self._separator.model_instance
        kind = str(model.torch_device.type) if getattr(model, "uses_pytorch_inference", True) else _onnx_device(model)
        return f"{kind} ({_cuda_name()})" if kind == "cuda" else kind

    def load(self, name: str) -> None:
        """Load the model ``name``, unless it is the one that is loaded.

        Raises PermanentError (code ``model_unknown``) or TransientError (code ``model_unavailable``).
        """
        ensure_model(name, self._model_dir)
        try:
            self._separator.load_model(name)
        except (Exception, SystemExit) as error:  # the library ends the process over a corrupt checkpoint
            log.exception("model_load_failed", model=name)
            raise unavailable(name, self._model_dir, error) from error

    def separate(self, job: Separate, on_progress: OnProgress) -> tuple[Stem, ...]:
        """Separate one song and write the stems that are wanted.

        Raises PermanentError for a stem that the model does not have, CancelledError from ``on_progress``.
        """
        self.load(job.model)
        sources = self._run(job.mixture, on_progress)
        wanted = _wanted(sources, job.stems)
        return tuple(_written(name, sources[name], job) for name in wanted)

    def _run(self, mixture: Path, on_progress: OnProgress) -> dict[str, Samples]:
        model = self._separator.model_instance
        sources: dict[str, Samples] = {}

        def capture(_path: str, source: Samples, stem_name: str) -> dict[str, Samples]:
            sources[stem_key(stem_name)] = np.asarray(source, dtype=np.float32)
            return {stem_name: source}

        model.final_process = capture
        _skip_discarded_pass(model)
        _report_progress(model, on_progress)
        self._separator.separate(str(mixture))
        missing = {stem_key(name) for name in (model.primary_stem_name, model.secondary_stem_name)} - set(sources)
        if missing or not sources:
            raise StemMissingError(f"the model gave no {' and no '.join(sorted(missing)) or 'stems'}")
        return sources

    def close(self) -> None:
        """Remove the engine's own working files."""
        shutil.rmtree(self._scratch, ignore_errors=True)


class StemMissingError(Exception):
    """The library returned without an error and without a stem."""


def stem_key(name: str) -> str:
    """A model's name for a stem as it appears in keys and messages: ``No Drums`` → ``no_drums``."""
    return "_".join(name.lower().split())


def _wanted(sources: dict[str, Samples], asked: tuple[str, ...] | None) -> tuple[str, ...]:
    unknown = set(asked or ()) - set(sources)
    if unknown:
        raise PermanentError(
            f"the model has no stem named {', '.join(sorted(unknown))}; it has {', '.join(sorted(sources))}",
            code=ErrorCode.STEM_UNKNOWN,
        )
    return asked or tuple(sources)


def _written(name: str, source: Samples, job: Separate) -> Stem:
    """Write one stem ``(samples, channels)`` at the song's own level."""
    if source.shape[0] != job.frames:
        raise StemMissingError(f"{name} has {source.shape[0]} samples, the song has {job.frames}")
    if not np.isfinite(source).all():
        raise StemMissingError(f"{name} has samples that are no numbers")
    level = source * np.float32(job.peak)
    path = job.folder / f"{name}.wav"
    try:
        soundfile.write(path, level, SAMPLE_RATE, subtype="FLOAT", format=CONTAINER)
    except soundfile.LibsndfileError as error:
        # libsndfile does not say which; writing a plain file to an open folder has no other way to fail.
        raise OSError(errno.ENOSPC, "the disk is full") from error
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Stem(
        name=name,
        path=path,
        sha256=digest,
        bytes=path.stat().st_size,
        frames=level.shape[0],
        sample_rate=SAMPLE_RATE,
        channels=level.shape[1],
        peak=float(np.abs(level).max(initial=0.0)),
    )


def _skip_discarded_pass(model: Any) -> None:
    """Leave out the MDX path's pass over the song whose result nobody reads."""
    demix = getattr(model, "demix", None)
    if demix is None or model.invert_using_spec or "is_match_mix" not in inspect.signature(demix).parameters:
        return
    model.demix = lambda mix, is_match_mix=False: None if is_match_mix else demix(mix)


def _report_progress(model: Any, on_progress: OnProgress) -> None:
    """Hear of every segment: the library's loops over the song go through a ``tqdm`` of their module."""

    def report(items: Iterable[Any] = (), *_: object, **__: object) -> Iterator[Any]:
        steps = list(items)
        for number, item in enumerate(steps):
            on_progress(number / len(steps))
            yield item
        on_progress(1.0)

    sys.modules[type(model).__module__].tqdm = report  # type: ignore[attr-defined]


_DEVICES = {"CPUExecutionProvider": "cpu", "CUDAExecutionProvider": "cuda", "CoreMLExecutionProvider": "mps"}


def _onnx_device(model: Any) -> str:
    """The device of the session that runs the model; onnxruntime falls back to the CPU with a mere warning."""
    session = inspect.getclosurevars(model.model_run).nonlocals["ort_inference_session"]
    provider: str = session.get_providers()[0]
    return _DEVICES.get(provider, provider)


def _cuda_name() -> str:
    import torch

    return torch.cuda.get_device_name(0)


def _put_ffmpeg_on_path(folder: Path) -> None:
    """The library asks for an ``ffmpeg`` on PATH at its start; give it the one that a wheel brought along."""
    if shutil.which("ffmpeg"):
        return
    import imageio_ffmpeg

    link = folder / "bin" / "ffmpeg"
    link.parent.mkdir(parents=True, exist_ok=True)
    if not link.exists():
        link.symlink_to(imageio_ffmpeg.get_ffmpeg_exe())
    os.environ["PATH"] = f"{link.parent.resolve()}{os.pathsep}{os.environ.get('PATH', '')}"


def classify(error: Exception) -> PipelineError | None:
    """What an exception of the library or of torch means for the job; None if the child must be replaced."""
    match error:
        case PipelineError():
            return error
        case StemMissingError():
            return PermanentError(f"the separation failed: {error}", code=ErrorCode.STEM_MISSING)
        case OSError():
            return disk_error(error)
        case InvalidAudioDataError() | ValueError():
            return PermanentError("the model cannot separate this audio", code=ErrorCode.SEPARATION_FAILED)
        case _:
            return None
