"""The separation engine: audio-separator's loaders and models, our drivers, input, output and errors.

Runs in the child process only. What is changed against the stock way, and why:

* the mixture is fed at peak 1.0 with ``normalization_threshold=1.0`` and stems are scaled back afterwards: the stock
  MDX path is only consistent at exactly that peak, and loses up to 3 dB of SDR below it;
* stems are written by us, as float and at the song's own level, see ``processor.separation.stems``;
* several models stay loaded, see ``processor.engine.model_cache``, and ensembles are made of them, see ``processor.separation.ensemble``;
* networks are driven by us, in constant memory, see ``processor.separation``. The stems are stock's: bit for bit with MDX
  and with all but one of the band layouts of VR, those of Demucs but for the rounding of the song's mean, those of
  MDX23C and Roformers but for what ``processor.separation.architectures.mdxc`` puts right;
* when memory runs out, lighter ways are tried before the job fails, see ``processor.engine.oom_fallback``;
* model files come through our own store, which places them whole or not at all, and opens those that are sealed.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import numpy as np
import torch
from audio_separator.separator import Separator as AudioSeparator

from pipeline.errors import ErrorCode, PermanentError, PipelineError, TransientError
from pipeline.files import disk_error
from pipeline.service.logs import get_logger
from processor.audio.wav import SAMPLE_RATE, write_wav
from processor.engine.model_cache import ModelPool
from processor.engine.oom_fallback import OomFallback
from processor.engine.stem_files import StemFiles
from processor.ipc import Separate, Stem
from processor.models import ModelStore, load_errors, unknown_model
from processor.models.presets import resolved
from processor.separation.ensemble.separator import EnsembleSeparator, LoadModel
from processor.separation.options import DeviceOptions
from processor.separation.registry import architecture, separator_for
from processor.separation.runtime.onnx import require_tensorrt, sessions
from processor.separation.runtime.precision import set_baseline
from processor.separation.separator import OnProgress, Separator
from processor.separation.stems import StemMissingError, require_known
from processor.system.ffmpeg import put_ffmpeg_on_path
from processor.system.memory import memory_in_use
from processor.system.oom import is_out_of_memory

log = get_logger(__name__)

T = TypeVar("T")

Loading = Callable[[], AbstractContextManager[None]]

#: Which of stock's architectures open their models' files at every song; the others are in memory once they are loaded.
_READ_PER_SONG = ("vr_separator",)


class SeparationEngine:
    """audio-separator's ``Separator``, and the models that it has loaded, which later jobs find warm.

    ``preferred``: the model that stays loaded longest. ``pool_bytes``: see ``ModelPool``. ``device``: how networks are
    run. The folder of ``models`` is made if need be. Raises OSError if it or ``scratch_dir`` cannot be used, and
    InfrastructureError (``device_unavailable``) if TensorRT is wanted and not there.
    """

    def __init__(
        self,
        models: ModelStore,
        scratch_dir: Path,
        *,
        require_gpu: bool = False,
        preferred: str | None = None,
        pool_bytes: int | None = None,
        device: DeviceOptions | None = None,
    ) -> None:
        self._options = device or DeviceOptions()
        require_tensorrt(self._options)
        set_baseline(self._options.precision)
        # The library reads this variable behind our back, and prefers it to what it is told.
        os.environ.pop("AUDIO_SEPARATOR_MODEL_DIR", None)
        put_ffmpeg_on_path(scratch_dir)
        self._require_gpu = require_gpu
        self._models = models
        self._stems: dict[str, frozenset[str] | None] = {}
        self._pool = ModelPool(self._fetch, self._load, memory_in_use(), limit=pool_bytes, favourite=preferred)
        models.encrypted_files.sweep()
        self._upstream: Any = AudioSeparator(
            log_level=logging.WARNING,
            model_file_dir=str(models.folder),
            output_dir=str(scratch_dir),
            output_format="WAV",
            normalization_threshold=1.0,
            amplification_threshold=0.0,
        )
        self._upstream.download_file_if_not_exists = models.fetch
        self.device = ""
        """What the model, or the last ensemble, runs on: ``cpu``, or the GPU's kind and name."""
        self.degraded: tuple[str, ...] = ()
        """What was given up for the last song because memory ran out, see ``processor.engine.oom_fallback``."""

    @property
    def loaded(self) -> tuple[str, ...]:
        """The names of the models that need not be loaded."""
        return self._pool.names

    def load(self, name: str) -> Separator:
        """The model ``name``, which is loaded unless it is; good until another one is asked for.

        Raises PermanentError (code ``model_unknown``), TransientError (``model_unavailable``; ``device_unavailable``
        if a GPU is required and the model would run on the CPU) or InfrastructureError.
        """
        separator = self._pool.get(name)
        self._stems[name] = separator.stems
        self.device = _device_name(separator)
        return separator

    def warm_up(self, name: str, folder: Path) -> None:
        """Run the model on a second of noise: what is imported, compiled and allocated at first use is not the first
        job's to pay for. Raises whatever the library raises."""
        started = time.monotonic()
        with TemporaryDirectory(dir=folder) as scratch:
            noise = Path(scratch) / "noise.wav"
            samples = np.random.default_rng(0).uniform(-1.0, 1.0, (SAMPLE_RATE, 2)).astype(np.float32)
            write_wav(noise, [samples], channels=2)
            separator, ladder = self.load(name), OomFallback(self._pool.shrink)
            ladder.run(
                separator,
                SAMPLE_RATE,
                lambda each: each.separate(noise, lambda _name, _block: None, lambda _fraction: None),
            )
        log.info("model_warmed_up", model=name, seconds=round(time.monotonic() - started, 3))

    def separate(self, job: Separate, on_progress: OnProgress, loading: Loading = nullcontext) -> tuple[Stem, ...]:
        """Separate one song and write the stems that are wanted: all of them, or nothing is left.

        ``loading`` is entered while a model is loaded. Raises what ``load`` raises, PermanentError for a stem that the
        model does not have, TransientError (``out_of_memory``) if there is too little for the lightest way,
        CancelledError from ``on_progress``, StemMissingError, and whatever the library raises.
        """
        self.degraded = ()
        ladder = OomFallback(partial(self._make_room, loading))
        separator = self._chosen(job, ladder, loading)
        if job.stems:
            if (has := separator.stems) is not None:
                require_known(job.stems, has)
            separator = separator.only(job.stems)
        progress = _Forward(on_progress)

        def attempt(separator: Separator) -> tuple[Stem, ...]:
            with StemFiles(job) as stems:
                separator.separate(job.mixture, stems.write, progress)
                self.device = _device_name(separator)
                return stems.finish(stem for stem in separator.stems or () if not job.stems or stem in job.stems)

        # The models of an ensemble have their tries one by one.
        ensemble = isinstance(separator, EnsembleSeparator)
        stems = attempt(separator) if ensemble else ladder.run(separator, job.frames, attempt)
        self.degraded = ladder.steps
        return stems

    def _make_room(self, loading: Loading) -> bool:
        with loading():  # the next try has the time of a song again
            return self._pool.shrink()

    def _chosen(self, job: Separate, ladder: OomFallback, loading: Loading) -> Separator:
        """What the job asks for: a model, or an ensemble whose files are all here."""

        def load(name: str) -> Separator:
            with loading():
                return self.load(name)

        def run(model: str, attempt: Callable[[Separator], T]) -> T:
            return ladder.run(load(model), job.frames, attempt)

        def stems(name: str) -> frozenset[str] | None:
            return self._stems[name] if name in self._stems else load(name).stems

        choice = resolved(job.model)
        if isinstance(choice, str):
            return load(choice)
        with loading():
            for name in choice.ensemble:
                self._fetch(name)
        return EnsembleSeparator(choice, LoadModel(run, stems), job.stems, job.folder)

    def _run(self, model: Any, read_per_song: tuple[str, ...], mixture: Path) -> None:
        with self._models.opened(read_per_song):
            self._upstream.model_instance = model
            try:
                self._upstream.separate(str(mixture))
            finally:
                self._upstream.model_instance = None

    def _fetch(self, name: str) -> int:
        """Have the model's files here; their bytes."""
        with load_errors(name):
            files = self._files(name)
            self._upstream.download_model_files(name)  # before the loading does: what comes in may have to be sealed
            return sum(map(self._models.bytes, files))

    def _load(self, name: str) -> Separator:
        """Load the model from its files, which are here."""
        with load_errors(name):
            separator = self._separator_of(name, self._files(name))
        if self._require_gpu and separator.device == "cpu":
            raise TransientError(
                f"a GPU is required (REQUIRE_GPU, PROCESSOR_DEVICES), but the model {name} would run on the CPU: check "
                "the driver, and that CUDA builds of torch and onnxruntime are installed",
                code=ErrorCode.DEVICE_UNAVAILABLE,
            )
        return separator

    def _separator_of(self, name: str, files: tuple[str, ...]) -> Separator:
        with self._models.opened(files) as folder:
            self._upstream.model_file_dir = str(folder)
            try:
                with sessions(self._options):
                    self._upstream.load_model(name)
                model = self._upstream.model_instance
            finally:
                # The library would keep one more model than the pool knows of, and take it for the next one asked for.
                self._upstream.model_instance = None
                self._upstream.model_file_dir = str(self._models.folder)
            reads = files if architecture(model) in _READ_PER_SONG else ()
            return separator_for(model, partial(self._run, model, reads), self._options)

    def _files(self, name: str) -> tuple[str, ...]:
        """The names of the model's files. Raises PermanentError if there is no such model."""
        models = self._upstream.list_supported_model_files()
        for model in (model for group in models.values() for model in group.values()):
            if name == model["filename"] or name in model["download_files"]:
                return tuple(file.rsplit("/", 1)[-1] for file in model["download_files"])
        raise unknown_model(name)


class _Forward:
    """Hears of the progress of several tries, and tells nothing that is less than what it has told."""

    def __init__(self, on_progress: OnProgress) -> None:
        self._on_progress, self._most = on_progress, 0.0

    def __call__(self, fraction: float) -> None:
        self._most = max(self._most, fraction)
        self._on_progress(self._most)


def _device_name(separator: Separator) -> str:
    kinds = separator.device
    return kinds.replace("cuda", f"cuda ({torch.cuda.get_device_name(0)})") if "cuda" in kinds else kinds


def classify(error: Exception) -> PipelineError | None:
    """What an exception of the library or of torch means for the job; None if the child must be replaced."""
    match error:
        case PipelineError():
            return error
        case _ if is_out_of_memory(error):
            return TransientError("there is not enough memory for this song", code=ErrorCode.OUT_OF_MEMORY)
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
