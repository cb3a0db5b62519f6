"""The separation engine: loads models through audio-separator and separates songs with them.

Runs in the child process only. The differences from audio-separator's own ``Separator``, and the reasons:

* the mixture is passed at peak 1.0 with ``normalization_threshold=1.0``, and stems are scaled back afterwards:
  audio-separator's MDX path is consistent only at exactly that peak, and loses up to 3 dB of SDR below it;
* stems are written as float at the song's own level, see ``processor.engine.stem_files``;
* several models stay loaded, see ``processor.engine.model_cache``, and ensembles combine them, see
  ``processor.separation.ensemble``;
* networks are streamed in constant memory, see ``processor.separation``. The stems equal audio-separator's: bit for bit
  with MDX and with all band layouts of VR but one; with Demucs except for the rounding of the song's mean; with MDX23C
  and Roformers except for what ``processor.separation.architectures.mdxc`` corrects;
* when memory runs out, variants with less memory are tried before the job fails, see ``processor.engine.oom_fallback``;
* models and their parameters are those of ``processor.models.catalogue``, and their files pass through the model store,
  which verifies them, adds them atomically, and decrypts encrypted ones.
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
import soundfile
import torch
from audio_separator.separator import Separator as AudioSeparator

from pipeline.errors import ErrorCode, PermanentError, PipelineError, TransientError
from pipeline.files import disk_error
from pipeline.service.logs import get_logger
from processor.audio.wav import SAMPLE_RATE, write_wav
from processor.engine.model_cache import ModelCache
from processor.engine.oom_fallback import OomFallback
from processor.engine.stem_files import StemFiles
from processor.ipc import Separate, Stem
from processor.models import ModelStore, load_errors
from processor.models.catalogue import Model, read_catalogue
from processor.models.model_lists import parameters
from processor.models.presets import resolved
from processor.separation.ensemble.separator import EnsembleSeparator
from processor.separation.options import DeviceOptions
from processor.separation.registry import architecture, separator_for
from processor.separation.runtime.checkpoints import restrict_loading
from processor.separation.runtime.onnx import configured_sessions, require_tensorrt
from processor.separation.runtime.precision import set_baseline
from processor.separation.separator import OnProgress, Separator, monotonic_progress
from processor.separation.stems import StemMissingError, require_known
from processor.system.ffmpeg import put_ffmpeg_on_path
from processor.system.memory import memory_in_use
from processor.system.oom import is_device_error, is_out_of_memory

log = get_logger(__name__)

T = TypeVar("T")

Loading = Callable[[], AbstractContextManager[None]]

#: Architectures whose model files audio-separator opens for every song. The others are in memory once they are loaded.
_READ_PER_SONG = ("vr_separator",)


class SeparationEngine:
    """audio-separator's ``Separator`` and a cache of the models that it has loaded."""

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
        """``preferred``, ``pool_bytes``: see ``ModelCache``. ``device``: how networks are run.

        Creates the folder of ``models`` if necessary. Raises OSError if it or ``scratch_dir`` cannot be used, and
        InfrastructureError (``device_unavailable``) if TensorRT is wanted and not available.
        """
        self._options = device or DeviceOptions()
        require_tensorrt(self._options)
        set_baseline(self._options.precision)
        restrict_loading()
        # audio-separator prefers this variable to the folder that it is given.
        os.environ.pop("AUDIO_SEPARATOR_MODEL_DIR", None)
        put_ffmpeg_on_path(scratch_dir)
        self._require_gpu = require_gpu
        self._models = models
        self._stems: dict[str, frozenset[str] | None] = {}
        self._cache = ModelCache(self._fetch, self._load, memory_in_use(), limit=pool_bytes, preferred=preferred)
        models.encrypted_files.sweep()
        self._upstream: Any = AudioSeparator(
            log_level=logging.WARNING,
            model_file_dir=str(models.folder),
            output_dir=str(scratch_dir),
            output_format="WAV",
            normalization_threshold=1.0,
            amplification_threshold=0.0,
        )
        # audio-separator would read unverified lists from the network.
        self._upstream.download_model_files = self._present_files
        self._upstream.load_model_data_using_hash = self._parameters
        self.device = ""
        """The device of the last model or ensemble: ``cpu``, or the GPU's kind and name."""
        self.degraded: tuple[str, ...] = ()
        """The reductions of the last song after memory ran out, see ``processor.engine.oom_fallback``."""

    @property
    def loaded(self) -> tuple[str, ...]:
        """The names of the loaded models."""
        return self._cache.names

    # --- load ---

    def load(self, name: str) -> Separator:
        """Return the model ``name``, loading it if necessary. It is valid until the next model is requested.

        Raises PermanentError (code ``model_unknown``), TransientError (``model_unavailable``; ``device_unavailable``
        if a GPU is required and the model would run on the CPU) or InfrastructureError.
        """
        separator = self._cache.get(name)
        self._stems[name] = separator.stems
        self.device = _device_name(separator)
        return separator

    def _fetch(self, name: str) -> int:
        """Download the model's files if they are missing and return their bytes."""
        self._models.require_allowed(name)
        with load_errors(name):
            files = self._model(name).files
            for file in files:
                self._models.pull(file)
            return sum(self._models.bytes(file.name) for file in files)

    def _load(self, name: str) -> Separator:
        """Load the model from its files, which must be present."""
        with load_errors(name):
            files = tuple(file.name for file in self._model(name).files)
            with self._models.opened(files) as folder:
                self._upstream.model_file_dir = str(folder)
                try:
                    with configured_sessions(self._options):
                        self._upstream.load_model(name)
                    model = self._upstream.model_instance
                finally:
                    # audio-separator would keep a model that the cache does not count, and reuse it for the next load.
                    self._upstream.model_instance = None
                    self._upstream.model_file_dir = str(self._models.folder)
                read_per_song = files if architecture(model) in _READ_PER_SONG else ()
                separator = separator_for(model, partial(self._run_upstream, model, read_per_song), self._options)
        if self._require_gpu and separator.device == "cpu":
            raise TransientError(
                f"a GPU is required (REQUIRE_GPU, PROCESSOR_DEVICES), but the model {name} would run on the CPU: check "
                "the driver, and that CUDA builds of torch and onnxruntime are installed",
                code=ErrorCode.DEVICE_UNAVAILABLE,
            )
        return separator

    def _model(self, name: str) -> Model:
        """Return the model of this name, or with this file. Raises PermanentError if there is none."""
        return read_catalogue(self._models.folder).find(name)

    def _present_files(self, name: str) -> tuple[str, str, str, str, str | None]:
        """Return what audio-separator has to know of a model whose files are present.

        Its name, architecture and title, its path, and the path of the YAML file of an MDXC model.
        """
        model, folder = self._model(name), Path(self._upstream.model_file_dir)
        yaml = (str(folder / file.name) for file in model.files[1:] if file.name.endswith(".yaml"))
        config = next(yaml, None) if model.architecture == "MDXC" else None
        return model.name, model.architecture, model.title, str(folder / model.name), config

    def _parameters(self, path: str) -> Any:
        """Return the parameters of the MDX or VR model in the file ``path``. Raises ValueError if no list has them."""
        digest = self._upstream.get_model_hash(path)
        try:
            return parameters(self._models.folder)[digest]
        except KeyError:
            raise ValueError(f"no list has the parameters of a model with the hash {digest}") from None

    def _run_upstream(self, model: Any, read_per_song: tuple[str, ...], mixture: Path) -> None:
        """Run audio-separator's own loops over a file."""
        with self._models.opened(read_per_song):
            self._upstream.model_instance = model
            try:
                self._upstream.separate(str(mixture))
            finally:
                self._upstream.model_instance = None

    def warm_up(self, name: str, folder: Path) -> None:
        """Run the model over a second of noise, so that imports, compilation and allocations precede the first job.

        Raises any error of the libraries.
        """
        started = time.monotonic()
        with TemporaryDirectory(dir=folder) as scratch:
            noise = Path(scratch) / "noise.wav"
            samples = np.random.default_rng(0).uniform(-1.0, 1.0, (SAMPLE_RATE, 2)).astype(np.float32)
            write_wav(noise, [samples], channels=2)
            OomFallback(self._cache.shrink).run(
                self.load(name),
                SAMPLE_RATE,
                lambda separator: separator.separate(noise, lambda _name, _block: None, lambda _fraction: None),
            )
        log.info("model_warmed_up", model=name, seconds=round(time.monotonic() - started, 3))

    def is_healthy(self) -> bool:
        """Return whether the device still computes, after an exception of a library."""
        if not torch.cuda.is_available():
            return True
        try:
            torch.cuda.synchronize()
            return bool(torch.ones(1, device="cuda").sum().item() == 1.0)
        except RuntimeError as error:
            log.error("device_failed", error=str(error)[:200])
            return False

    # --- choose ---

    def _choose(self, job: Separate, fallback: OomFallback, loading: Loading) -> Separator:
        """Return the job's separator: a loaded model, or an ensemble whose files are all present."""

        def load(name: str) -> Separator:
            with loading():
                return self.load(name)

        def run_model(model: str, attempt: Callable[[Separator], T]) -> T:
            return fallback.run(load(model), job.frames, attempt)

        def stems_of(name: str) -> frozenset[str] | None:
            return self._stems[name] if name in self._stems else load(name).stems

        choice = resolved(job.model)
        if isinstance(choice, str):
            return load(choice)
        with loading():
            for name in choice.ensemble:
                self._fetch(name)
        return EnsembleSeparator(choice, run_model, stems_of, job.stems, job.folder)

    # --- separate, with fallback ---

    def separate(self, job: Separate, on_progress: OnProgress, loading: Loading = nullcontext) -> tuple[Stem, ...]:
        """Separate one song and write the wanted stems: all of them, or none.

        ``loading`` is entered while a model is loaded. Raises what ``load`` raises, PermanentError for a stem that the
        model does not have, TransientError (``out_of_memory``) if memory is too short for every fallback step,
        CancelledError from ``on_progress``, StemMissingError, and any error of the libraries.
        """
        self.degraded = ()

        def free_memory() -> bool:
            with loading():  # restarts the time limit: the next attempt has the time of a whole song
                return self._cache.shrink()

        fallback = OomFallback(free_memory)
        separator = self._choose(job, fallback, loading)
        if job.stems:
            if (available := separator.stems) is not None:
                require_known(job.stems, available)
            separator = separator.only(job.stems)
        progress = monotonic_progress(on_progress)

        def attempt(separator: Separator) -> tuple[Stem, ...]:
            with StemFiles(job) as stems:
                separator.separate(job.mixture, stems.write, progress)
                self.device = _device_name(separator)
                return stems.finish(stem for stem in separator.stems or () if not job.stems or stem in job.stems)

        # An ensemble runs the fallback steps for each of its models.
        ensemble = isinstance(separator, EnsembleSeparator)
        stems = attempt(separator) if ensemble else fallback.run(separator, job.frames, attempt)
        self.degraded = fallback.reductions
        return stems


def _device_name(separator: Separator) -> str:
    kinds = separator.device
    return kinds.replace("cuda", f"cuda ({torch.cuda.get_device_name(0)})") if "cuda" in kinds else kinds


def classify(error: BaseException) -> PipelineError | None:
    """Return the job's error for an exception of the libraries; None if the device failed and the child must be
    replaced.

    What has not to do with memory, files or the device depends on the song and the model only: it would be raised
    again, and is permanent.
    """
    match error:
        case PipelineError():
            return error
        case _ if is_out_of_memory(error):
            return TransientError("there is not enough memory for this song", code=ErrorCode.OUT_OF_MEMORY)
        case StemMissingError():
            return PermanentError(f"the separation failed: {error}", code=ErrorCode.STEM_MISSING)
        case OSError(errno=int()):
            return disk_error(error)
        case OSError():  # raised by a package whose shared library is not installed
            return PermanentError("the model cannot be run on this machine", code=ErrorCode.SEPARATION_FAILED)
        case soundfile.LibsndfileError():
            return TransientError("the decoded song cannot be read", code=ErrorCode.STORAGE_UNAVAILABLE)
        case ValueError():  # including InvalidAudioDataError
            return PermanentError("the model cannot separate this audio", code=ErrorCode.SEPARATION_FAILED)
        case _ if is_device_error(error):
            return None
        case _:
            return PermanentError(
                f"the model cannot separate this song ({type(error).__name__}): it would fail in the same way again",
                code=ErrorCode.SEPARATION_FAILED,
            )
