"""audio-separator, driven: its loaders, its models, its arithmetic; our input, our output, our errors.

Runs in the child process only. What is changed against the stock way, and why:

* the mixture is fed at peak 1.0 with ``normalization_threshold=1.0`` and stems are scaled back afterwards: the stock
  MDX path is only consistent at exactly that peak, and loses up to 3 dB of SDR below it;
* stems are taken as float arrays where the library would write them: it writes 16 bits, truncated, under names that
  would have to be guessed from;
* the MDX path's second pass over the song is left out: its result is thrown away unless ``invert_using_spec`` is on,
  which it is not. The stems are bit for bit the same;
* model files come through our own store, which places them whole or not at all, and opens those that are sealed.
"""

from __future__ import annotations

import inspect
import logging
import os
import random
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from audio_separator.separator import Separator

from pipeline.errors import ErrorCode, PermanentError, PipelineError, TransientError
from pipeline.files import disk_error, file_sha256
from pipeline.telemetry import get_logger
from processor.models import ModelStore, NotServedError, SealError, closed, missing, unknown, unreadable
from processor.protocol import Separate, Stem
from processor.wav import BLOCK_FRAMES, SAMPLE_RATE, Samples, write_wav

log = get_logger(__name__)

#: How far a stem's length may be from the song's, frames: the VR path gives whole hops of its transform.
_FIT = SAMPLE_RATE // 10

#: Whose models are read from their files at every song, where the others are in memory once they are loaded.
_READ_PER_SONG = ("vr_separator", "demucs_separator")

#: Where Demucs loops over a song; the other architectures do it in the module of their model.
_DEMUCS_LOOP = "audio_separator.separator.uvr_lib_v5.demucs.apply"

OnProgress = Callable[[float], None]
"""Takes the share that is done, 0 to 1; raises CancelledError to stop the work."""


class StemMissingError(Exception):
    """The library returned without an error and without a stem."""


class StockEngine:
    """One ``audio_separator.Separator`` with one loaded model, which later jobs find warm.

    The folder of ``models`` is made if need be. Raises OSError if it or ``scratch_dir`` cannot be used.
    """

    def __init__(self, models: ModelStore, scratch_dir: Path, *, require_gpu: bool = False) -> None:
        # The library reads this variable behind our back, and prefers it to what it is told.
        os.environ.pop("AUDIO_SEPARATOR_MODEL_DIR", None)
        _put_ffmpeg_on_path(scratch_dir)
        self._require_gpu = require_gpu
        self._loaded: str | None = None
        self._models = models
        self._read_per_song: tuple[str, ...] = ()
        models.vault.sweep()
        self._separator: Any = Separator(
            log_level=logging.WARNING,
            model_file_dir=str(models.folder),
            output_dir=str(scratch_dir),
            output_format="WAV",
            normalization_threshold=1.0,
            amplification_threshold=0.0,
        )
        self._separator.download_file_if_not_exists = models.fetch

    @property
    def device(self) -> str:
        """What the loaded model runs on: ``cpu``, or the GPU's kind and name."""
        model = self._separator.model_instance
        kind = str(model.torch_device.type) if getattr(model, "uses_pytorch_inference", True) else _onnx_device(model)
        return f"{kind} ({_cuda_name()})" if kind == "cuda" else kind

    def load(self, name: str) -> None:
        """Load the model ``name``, unless it is the one that is loaded.

        Raises PermanentError (code ``model_unknown``), TransientError (``model_unavailable``; ``device_unavailable``
        if a GPU is required and the model would run on the CPU) or InfrastructureError.
        """
        if name == self._loaded:
            return
        self._loaded = None
        self._fetch_and_load(name)
        if self._require_gpu and self.device == "cpu":
            raise TransientError(
                f"REQUIRE_GPU is set, but the model {name} would run on the CPU: check the driver, and that CUDA "
                "builds of torch and onnxruntime are installed",
                code=ErrorCode.DEVICE_UNAVAILABLE,
            )
        self._loaded = name

    def warm_up(self, folder: Path) -> None:
        """Run the loaded model on a second of noise: what is imported, compiled and allocated at first use is not
        the first job's to pay for. Raises whatever the library raises."""
        noise = folder / "warm-up.wav"
        samples = np.random.default_rng(0).uniform(-1.0, 1.0, (SAMPLE_RATE, 2)).astype(np.float32)
        write_wav(noise, [samples], channels=2)
        started = time.monotonic()
        with _instrumented(self._separator.model_instance, {}, lambda _fraction: None):
            self._run(noise)
        noise.unlink()
        log.info("model_warmed_up", seconds=round(time.monotonic() - started, 3))

    def separate(self, job: Separate, on_progress: OnProgress) -> tuple[Stem, ...]:
        """Separate one song and write the stems that are wanted.

        Raises what ``load`` raises, PermanentError for a stem that the model does not have, CancelledError from
        ``on_progress``, StemMissingError, and whatever the library raises.
        """
        self.load(job.model)
        model = self._separator.model_instance
        promised = _promised(model)
        if promised:
            _require_known(job.stems, promised)
        sources: dict[str, Samples] = {}
        random.seed(0)  # Demucs shifts the song by random amounts; twice the same song must give the same stems
        with _instrumented(model, sources, on_progress):
            self._run(job.mixture)
        absent = (promised or _keys(model.demucs_source_map)) - sources.keys()
        if absent:
            raise StemMissingError(f"the model gave no {' and no '.join(sorted(absent))}")
        _require_known(job.stems, sources)
        return tuple(_written(name, sources[name], job) for name in dict.fromkeys(job.stems or sources))

    def _run(self, mixture: Path) -> None:
        with self._models.opened(self._read_per_song):
            self._separator.separate(str(mixture))

    def _fetch_and_load(self, name: str) -> None:
        try:
            files = self._files(name)
            self._separator.download_model_files(name)  # before the loading does: what comes in may have to be sealed
            self._load(name, files)
        except SealError as error:
            log.error("model_not_opened", model=name, error=error.message)
            raise closed(name) from error
        except (NotServedError, TransientError) as error:
            log.error("model_not_fetched", model=name, error=str(error))
            raise missing(name, error) from error
        except PipelineError:
            raise
        except (Exception, SystemExit) as error:  # the library ends the process over a corrupt checkpoint
            log.error("model_load_failed", model=name, error=repr(error))
            raise unreadable(name, error) from error

    def _load(self, name: str, files: tuple[str, ...]) -> None:
        with self._models.opened(files) as folder:
            self._separator.model_file_dir = str(folder)
            try:
                self._separator.load_model(name)
            finally:
                self._separator.model_file_dir = str(self._models.folder)
        kind = type(self._separator.model_instance).__module__.rpartition(".")[2]
        self._read_per_song = files if kind in _READ_PER_SONG else ()

    def _files(self, name: str) -> tuple[str, ...]:
        """The names of the model's files. Raises PermanentError if there is no such model."""
        models = self._separator.list_supported_model_files()
        for model in (model for group in models.values() for model in group.values()):
            if name == model["filename"] or name in model["download_files"]:
                return tuple(file.rsplit("/", 1)[-1] for file in model["download_files"])
        raise unknown(name)


def stem_key(name: str) -> str:
    """A model's name for a stem as it appears in keys, file names and messages: ``No Drums`` → ``no_drums``."""
    return re.sub("[^a-z0-9_-]+", "_", name.lower()).strip("_-") or "stem"


def _keys(names: Iterable[str]) -> frozenset[str]:
    return frozenset(map(stem_key, names))


def _promised(model: Any) -> frozenset[str] | None:
    """The stems that the loaded model has to give; None if only its run tells, as with Demucs."""
    if hasattr(model, "demucs_source_map"):
        return None
    training = model.model_data.get("training", {})
    instruments = training.get("instruments") or ()
    if len(instruments) > 2 and not training.get("target_instrument"):
        return _keys(instruments)
    return _keys((model.primary_stem_name, model.secondary_stem_name))


def _require_known(asked: tuple[str, ...] | None, has: Iterable[str]) -> None:
    has = set(has)
    strange = set(asked or ()) - has
    if strange:
        raise PermanentError(
            f"the model has no stem named {', '.join(sorted(strange))}; it has {', '.join(sorted(has))}",
            code=ErrorCode.STEM_UNKNOWN,
        )


@contextmanager
def _instrumented(model: Any, sources: dict[str, Samples], on_progress: OnProgress) -> Iterator[None]:
    """Let the model run our way; afterwards it is as it was, and keeps none of the song in memory."""

    def capture(_path: str, source: Samples, stem_name: str) -> dict[str, Samples]:
        sources[stem_key(stem_name)] = np.asarray(source, dtype=np.float32)
        return {stem_name: source}

    steps = _Steps(on_progress)
    with (
        _replaced(sys.modules[type(model).__module__], "tqdm", steps),
        _replaced(sys.modules.get(_DEMUCS_LOOP), "tqdm", steps),
        _replaced(model, "final_process", capture),
        _replaced(model, "demix", _without_discarded_pass(model)),
    ):
        yield


@contextmanager
def _replaced(owner: Any, name: str, substitute: object) -> Iterator[None]:
    """``owner.name`` for a while, if the owner has such a thing."""
    if not hasattr(owner, name):
        yield
        return
    own = vars(owner).get(name)
    setattr(owner, name, substitute)
    try:
        yield
    finally:
        if own is None:
            delattr(owner, name)
        else:
            setattr(owner, name, own)


def _without_discarded_pass(model: Any) -> object:
    """The model's ``demix``, less the MDX path's second pass over the song, whose result nobody reads."""
    demix = getattr(model, "demix", None)
    if demix is None or model.invert_using_spec or "is_match_mix" not in inspect.signature(demix).parameters:
        return demix
    return lambda mix, is_match_mix=False: None if is_match_mix else demix(mix)


class _Steps:
    """Stands in for ``tqdm``, through which the library loops over a song, and hears of every segment.

    Some models loop more than once: the progress never goes back.
    """

    def __init__(self, on_progress: OnProgress) -> None:
        self._on_progress = on_progress
        self._done = 0.0
        #: Some import the function, some the module of the same name.
        self.tqdm = self

    def __call__(self, items: Iterable[Any] = (), *_: object, **__: object) -> Iterator[Any]:
        steps = list(items)
        for number, item in enumerate(steps):
            self._tell(number / len(steps))
            yield item
        self._tell(1.0)

    def _tell(self, fraction: float) -> None:
        self._done = max(self._done, fraction)
        self._on_progress(self._done)


def _written(name: str, source: Samples, job: Separate) -> Stem:
    """Write one stem ``(samples, channels)`` at the song's own level."""
    if abs(len(source) - job.frames) > _FIT:
        raise StemMissingError(f"{name} has {len(source)} samples, the song has {job.frames}")
    path = job.folder / f"{name}.wav"
    written = write_wav(path, _at_level(name, source, job), channels=source.shape[1])
    return Stem(
        name=name,
        path=path,
        sha256=file_sha256(path),
        bytes=path.stat().st_size,
        frames=written.frames,
        sample_rate=SAMPLE_RATE,
        channels=source.shape[1],
        peak=written.peak,
    )


def _at_level(name: str, source: Samples, job: Separate) -> Iterator[Samples]:
    """The stem's blocks, as many frames in all as the song has."""
    for start in range(0, job.frames, BLOCK_FRAMES):
        block = source[start : min(start + BLOCK_FRAMES, job.frames)] * np.float32(job.peak)
        if not np.isfinite(block).all():
            raise StemMissingError(f"{name} has samples that are no numbers")
        lacking = min(BLOCK_FRAMES, job.frames - start) - len(block)
        yield np.pad(block, ((0, lacking), (0, 0))) if lacking else block


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
        case OSError(errno=int()):
            return disk_error(error)
        case OSError():  # raised by a package whose shared library is not on this machine
            return PermanentError("the model cannot be run on this machine", code=ErrorCode.SEPARATION_FAILED)
        case ValueError():  # InvalidAudioDataError among them
            return PermanentError("the model cannot separate this audio", code=ErrorCode.SEPARATION_FAILED)
        case _:
            return None
