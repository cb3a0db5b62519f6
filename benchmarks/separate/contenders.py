"""Who separates: a source file in, its stems on the disk. Imported by ``worker`` only, where a model may be loaded."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Protocol

import onnxruntime

from benchmarks.separate.names import OURS, SIDE_BY_SIDE, STOCK, UNSETTLED
from pipeline.cancel import CancelToken
from pipeline.download import UrlGuard
from processor import cores, engine
from processor.decode import decode
from processor.drivers.mdx import MdxDriver
from processor.drivers.options import DeviceOptions
from processor.drivers.sessions import sessions
from processor.drivers.stock import replaced
from processor.engine import SeparationEngine
from processor.models import ModelStore, Network
from processor.models.options import StoreOptions
from processor.protocol import Separate

#: Longer than any song of the benchmark, s.
_LONGEST = 86_400.0


class Contender(Protocol):
    """A warm model and a way to run it."""

    @property
    def in_network(self) -> float:
        """How long the network has been at work since the start, s; NaN if that cannot be told."""

    def separate(self, song: Path) -> None:
        """Separate ``song`` into the contender's folder."""


class _Stopwatch:
    """Stands in for the network, and takes the time of it."""

    def __init__(self, network: Callable[[Any], Any]) -> None:
        self._network = network
        self.seconds = 0.0
        self.batch: int = getattr(network, "batch", 1)
        self.device: str = getattr(network, "device", "")

    def __call__(self, spectra: Any) -> Any:
        started = time.perf_counter()
        try:
            return self._network(spectra)
        finally:
            self.seconds += time.perf_counter() - started


class Ours:
    """What the processor does with a song that it has fetched: decode, separate, write float stems, hash them."""

    def __init__(self, model: Path, folder: Path) -> None:
        store = ModelStore(model.parent, Network(UrlGuard(allow_private=False)), StoreOptions())
        self._engine = SeparationEngine(store, folder)
        self._model, self._folder = model.name, folder
        self._stopwatch: _Stopwatch | None = None
        driver = self._engine.load(self._model)
        if isinstance(driver, MdxDriver):
            driver.network = self._stopwatch = _Stopwatch(driver.network)

    @property
    def in_network(self) -> float:
        """See ``Contender``."""
        return self._stopwatch.seconds if self._stopwatch else math.nan

    def separate(self, song: Path) -> None:
        """See ``Contender``."""
        mixture = decode(song, self._folder, max_seconds=_LONGEST, cancel=CancelToken())
        job = Separate(1, mixture.path, mixture.peak, mixture.frames, self._folder, self._model, None)
        self._engine.separate(job, lambda _fraction: None)


class Unsettled(Ours):
    """With the threads that the libraries have if nobody says anything: they wait for each other in loops."""

    def __init__(self, model: Path, folder: Path) -> None:
        with replaced(engine, "sessions", nullcontext):
            super().__init__(model, folder)


class SideBySide(Ours):
    """ONNX Runtime may run several operators of a network at a time."""

    def __init__(self, model: Path, folder: Path) -> None:
        with replaced(engine, "sessions", _parallel_sessions):
            super().__init__(model, folder)


@contextmanager
def _parallel_sessions(options: DeviceOptions) -> Iterator[None]:
    with sessions(options):
        settled = onnxruntime.SessionOptions

        def parallel() -> Any:
            made = settled()
            made.execution_mode = onnxruntime.ExecutionMode.ORT_PARALLEL
            made.inter_op_num_threads = cores.threads()
            return made

        with replaced(onnxruntime, "SessionOptions", parallel):
            yield


class Stock:
    """A ``Separator`` as its documentation has it, with its defaults."""

    def __init__(self, model: Path, folder: Path) -> None:
        from audio_separator.separator import Separator

        self._separator = Separator(
            log_level=logging.WARNING, model_file_dir=str(model.parent), output_dir=str(folder), output_format="WAV"
        )
        self._separator.load_model(model.name)
        instance = self._separator.model_instance
        instance.model_run = self._stopwatch = _Stopwatch(instance.model_run)

    @property
    def in_network(self) -> float:
        """See ``Contender``."""
        return self._stopwatch.seconds

    def separate(self, song: Path) -> None:
        """See ``Contender``."""
        if len(self._separator.separate(str(song))) != 2:
            raise RuntimeError("the library gave other than two stems")


CONTENDERS: dict[str, Callable[[Path, Path], Contender]] = {
    OURS: Ours,
    UNSETTLED: Unsettled,
    SIDE_BY_SIDE: SideBySide,
    STOCK: Stock,
}
