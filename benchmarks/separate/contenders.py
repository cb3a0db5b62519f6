"""Who separates: a source file in, its stems on the disk. Imported by ``worker`` only, where a model may be loaded."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Protocol

import onnxruntime

from benchmarks.engines import our_engine, separate_file, stock_separator
from benchmarks.separate.names import OURS, SIDE_BY_SIDE, STOCK, UNSETTLED
from processor.engine import engine
from processor.separation.architectures.fallback import replaced_attribute
from processor.separation.architectures.mdx import MdxSeparator
from processor.separation.options import DeviceOptions
from processor.separation.runtime.onnx import sessions
from processor.system import cpu


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
    """See ``separate_file``."""

    def __init__(self, model: Path, folder: Path) -> None:
        self._engine = our_engine(model.parent, folder)
        self._model, self._folder = model.name, folder
        self._stopwatch: _Stopwatch | None = None
        separator = self._engine.load(self._model)
        if isinstance(separator, MdxSeparator):
            separator.network = self._stopwatch = _Stopwatch(separator.network)

    @property
    def in_network(self) -> float:
        """See ``Contender``."""
        return self._stopwatch.seconds if self._stopwatch else math.nan

    def separate(self, song: Path) -> None:
        """See ``Contender``."""
        separate_file(self._engine, self._model, song, self._folder)


class Unsettled(Ours):
    """With the threads that the libraries have if nobody says anything: they wait for each other in loops."""

    def __init__(self, model: Path, folder: Path) -> None:
        with replaced_attribute(engine, "sessions", nullcontext):
            super().__init__(model, folder)


class SideBySide(Ours):
    """ONNX Runtime may run several operators of a network at a time."""

    def __init__(self, model: Path, folder: Path) -> None:
        with replaced_attribute(engine, "sessions", _parallel_sessions):
            super().__init__(model, folder)


@contextmanager
def _parallel_sessions(options: DeviceOptions) -> Iterator[None]:
    with sessions(options):
        settled = onnxruntime.SessionOptions

        def parallel() -> Any:
            made = settled()
            made.execution_mode = onnxruntime.ExecutionMode.ORT_PARALLEL
            made.inter_op_num_threads = cpu.threads()
            return made

        with replaced_attribute(onnxruntime, "SessionOptions", parallel):
            yield


class Stock:
    """See ``stock_separator``."""

    def __init__(self, model: Path, folder: Path) -> None:
        self._separator = stock_separator(model.parent, folder)
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
