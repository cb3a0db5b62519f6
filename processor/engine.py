"""The separation engine: audio-separator's loaders and models, our drivers, input, output and errors.

Runs in the child process only. What is changed against the stock way, and why:

* the mixture is fed at peak 1.0 with ``normalization_threshold=1.0`` and stems are scaled back afterwards: the stock
  MDX path is only consistent at exactly that peak, and loses up to 3 dB of SDR below it;
* stems are written by us, as float and at the song's own level, see ``processor.stems``;
* MDX networks are driven by us, in constant memory, see ``processor.drivers``. The stems are bit for bit the same;
* model files come through our own store, which places them whole or not at all, and opens those that are sealed.
"""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from audio_separator.separator import Separator

from pipeline.errors import ErrorCode, PermanentError, PipelineError, TransientError
from pipeline.files import disk_error
from pipeline.telemetry import get_logger
from processor.drivers import Driver, OnProgress
from processor.drivers.mdx import MdxDriver
from processor.drivers.network import sessions_without_spinning
from processor.drivers.stock import StockDriver
from processor.ffmpeg import put_ffmpeg_on_path
from processor.models import ModelStore, NotServedError, SealError, closed, missing, unknown, unreadable
from processor.protocol import Separate, Stem
from processor.stems import StemFiles, StemMissingError, require_known
from processor.wav import SAMPLE_RATE, write_wav

log = get_logger(__name__)

#: Whose models are read from their files at every song, where the others are in memory once they are loaded.
_READ_PER_SONG = ("vr_separator", "demucs_separator")


class SeparationEngine:
    """One ``audio_separator.Separator`` with one loaded model, which later jobs find warm.

    The folder of ``models`` is made if need be. Raises OSError if it or ``scratch_dir`` cannot be used.
    """

    def __init__(self, models: ModelStore, scratch_dir: Path, *, require_gpu: bool = False) -> None:
        # The library reads this variable behind our back, and prefers it to what it is told.
        os.environ.pop("AUDIO_SEPARATOR_MODEL_DIR", None)
        put_ffmpeg_on_path(scratch_dir)
        self._require_gpu = require_gpu
        self._loaded: str | None = None
        self._driver: Driver | None = None
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
        kind = self._model.device
        return f"{kind} ({_cuda_name()})" if kind == "cuda" else kind

    def load(self, name: str) -> None:
        """Load the model ``name``, unless it is the one that is loaded.

        Raises PermanentError (code ``model_unknown``), TransientError (``model_unavailable``; ``device_unavailable``
        if a GPU is required and the model would run on the CPU) or InfrastructureError.
        """
        if name == self._loaded:
            return
        self._loaded = self._driver = None
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
        started = time.monotonic()
        with TemporaryDirectory(dir=folder) as scratch:
            noise = Path(scratch) / "noise.wav"
            samples = np.random.default_rng(0).uniform(-1.0, 1.0, (SAMPLE_RATE, 2)).astype(np.float32)
            write_wav(noise, [samples], channels=2)
            self._model.separate(noise, lambda _name, _block: None, lambda _fraction: None)
        log.info("model_warmed_up", seconds=round(time.monotonic() - started, 3))

    def separate(self, job: Separate, on_progress: OnProgress) -> tuple[Stem, ...]:
        """Separate one song and write the stems that are wanted: all of them, or nothing is left.

        Raises what ``load`` raises, PermanentError for a stem that the model does not have, CancelledError from
        ``on_progress``, StemMissingError, and whatever the library raises.
        """
        self.load(job.model)
        promised = self._model.stems
        if promised is not None:
            require_known(job.stems, promised)
        with StemFiles(job) as stems:
            self._model.separate(job.mixture, stems.write, on_progress)
            return stems.finish(promised or ())

    @property
    def _model(self) -> Driver:
        if self._driver is None:
            raise RuntimeError("no model is loaded")
        return self._driver

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
                with sessions_without_spinning():
                    self._separator.load_model(name)
            finally:
                self._separator.model_file_dir = str(self._models.folder)
        model = self._separator.model_instance
        kind = type(model).__module__.rpartition(".")[2]
        self._read_per_song = files if kind in _READ_PER_SONG else ()
        self._driver = MdxDriver(model) if kind == "mdx_separator" else StockDriver(model, self._run)

    def _files(self, name: str) -> tuple[str, ...]:
        """The names of the model's files. Raises PermanentError if there is no such model."""
        models = self._separator.list_supported_model_files()
        for model in (model for group in models.values() for model in group.values()):
            if name == model["filename"] or name in model["download_files"]:
                return tuple(file.rsplit("/", 1)[-1] for file in model["download_files"])
        raise unknown(name)


def _cuda_name() -> str:
    import torch

    return torch.cuda.get_device_name(0)


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
