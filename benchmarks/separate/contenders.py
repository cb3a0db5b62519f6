"""The contenders: each separates a source file into stems on the disk. Imported only by ``worker``."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Protocol

import onnxruntime

from benchmarks.engines import offline_engine, separate_file, upstream_separator
from benchmarks.separate.names import DEFAULT_THREADS, ENGINE, PARALLEL_OPERATORS, UPSTREAM
from processor.engine import engine
from processor.separation.architectures.fallback import replaced_attribute
from processor.separation.architectures.mdx import MdxSeparator
from processor.separation.options import DeviceOptions
from processor.separation.runtime.onnx import configured_sessions
from processor.system import cpu


class Contender(Protocol):
    """A warm model that can separate songs."""

    @property
    def in_network(self) -> float:
        """The time that the network has run since the start, s; NaN if unknown."""

    def separate(self, song: Path) -> None:
        """Separate ``song`` into stems in the contender's folder."""


class _Stopwatch:
    """Wraps a network and measures the time of its calls."""

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


class Engine:
    """The project's engine, see ``separate_file``."""

    def __init__(self, model: Path, folder: Path) -> None:
        self._engine = offline_engine(model.parent, folder)
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


class DefaultThreads(Engine):
    """The project's engine with the default threads of the libraries, which spin while they wait."""

    def __init__(self, model: Path, folder: Path) -> None:
        with replaced_attribute(engine, "configured_sessions", nullcontext):
            super().__init__(model, folder)


class ParallelOperators(Engine):
    """The project's engine with ONNX Runtime's parallel execution of operators."""

    def __init__(self, model: Path, folder: Path) -> None:
        with replaced_attribute(engine, "configured_sessions", _parallel_sessions):
            super().__init__(model, folder)


@contextmanager
def _parallel_sessions(options: DeviceOptions) -> Iterator[None]:
    with configured_sessions(options):
        session_options = onnxruntime.SessionOptions

        def parallel() -> Any:
            created = session_options()
            created.execution_mode = onnxruntime.ExecutionMode.ORT_PARALLEL
            created.inter_op_num_threads = cpu.threads(os.environ)
            return created

        with replaced_attribute(onnxruntime, "SessionOptions", parallel):
            yield


class Upstream:
    """audio-separator, see ``upstream_separator``."""

    def __init__(self, model: Path, folder: Path) -> None:
        self._separator = upstream_separator(model.parent, folder)
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
            raise RuntimeError("audio-separator did not write two stems")


CONTENDERS: dict[str, Callable[[Path, Path], Contender]] = {
    ENGINE: Engine,
    DEFAULT_THREADS: DefaultThreads,
    PARALLEL_OPERATORS: ParallelOperators,
    UPSTREAM: Upstream,
}
