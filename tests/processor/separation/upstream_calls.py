"""Functions that tests run in the process with audio-separator; see the fixture ``upstream_process``."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import logging
import sys
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from demo.centre_model import DEMO_MODEL_NAME
from pipeline.cancellation import CancelToken
from pipeline.errors import ErrorCode, PipelineError
from processor.audio.decode import Mixture
from processor.ipc import Separate, Stem
from processor.separation.options import DeviceOptions
from processor.system.memory import MainMemory
from tests.processor.models.model_source import store_in

if TYPE_CHECKING:
    from processor.engine.engine import SeparationEngine
    from processor.separation.runtime.device_transfer import DeviceTransfer
    from processor.separation.separator import Separator

Stems = dict[str, NDArray[np.float32]]
"""Samples ``(channels, frames)`` by name."""


#: An option of glibc's mallopt(3).
_MMAP_THRESHOLD = -3


@dataclass(frozen=True)
class Refusal:
    """A classified error. The exceptions themselves cannot be pickled."""

    kind: str
    code: str
    message: str


def upstream_stems(
    model_dir: Path, mixture: Path, scratch: Path, *, model: str = DEMO_MODEL_NAME, denoise: bool = False
) -> Stems:
    """Return the stems that an unmodified Separator passes to its writer."""
    upstream = upstream_separator(model_dir, scratch)
    upstream.load_model(model)
    upstream.model_instance.enable_denoise = denoise
    stems: Stems = {}

    def capture(_path: str, source: Any, name: str) -> dict[str, Any]:
        stems[name.lower().replace(" ", "_")] = np.array(source.T)
        return {name: source}

    upstream.model_instance.final_process = capture
    upstream.separate(str(mixture))
    return stems


def streamed_stems(
    model_dir: Path,
    mixture: Path,
    scratch: Path,
    *,
    model: str,
    denoise: bool = False,
    batch: int | None = None,
    pipelined: bool = False,
    options: DeviceOptions | None = None,
) -> Stems:
    """Return the stems of an ``MdxSeparator``.

    ``batch``: segments in a batch. ``pipelined``: with a worker thread, as for a GPU. ``options``: how the network is
    run.
    """
    from processor.separation.architectures.mdx import MdxSeparator

    upstream = upstream_separator(model_dir, scratch)
    upstream.load_model(model)
    upstream.model_instance.enable_denoise = denoise
    separator = MdxSeparator(upstream.model_instance, options, transfer=pipelined_transfer() if pipelined else None)
    if batch is not None:
        separator._batch = batch
    return collected(separator, mixture)


def collected(separator: Separator, mixture: Path) -> Stems:
    """Run a separator and return its stems."""
    blocks: dict[str, list[NDArray[np.float32]]] = {}
    separator.separate(mixture, lambda name, block: blocks.setdefault(name, []).append(block.T), lambda _: None)
    return {name: np.concatenate(parts, axis=1) for name, parts in blocks.items()}


def pipelined_transfer() -> DeviceTransfer:
    """Return a transfer to the CPU that uses a worker thread, as for a GPU."""
    import torch

    from processor.separation.runtime.device_transfer import DeviceTransfer, pipelined

    class PipelinedTransfer(DeviceTransfer):
        def map(self, work: Callable[[Any], Any], items: Iterable[Any]) -> Generator[Any, None, None]:
            return pipelined(work, items)

    return PipelinedTransfer(torch.device("cpu"))


@dataclass(frozen=True)
class MdxcRun:
    """The result of one run of an ``MdxcSeparator``."""

    stems: Stems
    batch: int
    """Segments in a batch at the end."""
    error: str | None
    """The name of the exception that ended the run."""
    threads: list[str]
    """Names of the worker threads that still exist."""


def stream_mdxc(
    model_dir: Path,
    mixture: Path,
    scratch: Path,
    *,
    model: str,
    batch: int | None = None,
    pipelined: bool = False,
    options: DeviceOptions | None = None,
    reduced: bool = False,
    cancel_at: float | None = None,
) -> MdxcRun:
    """Run an ``MdxcSeparator``.

    ``batch``: segments in a batch. ``pipelined``: with a worker thread, as for a GPU. ``options``: how the network is
    run. ``reduced``: the variant with less memory. ``cancel_at``: the share of the work at which it is cancelled.
    """
    from processor.separation.architectures.mdxc import MdxcSeparator

    def on_progress(fraction: float) -> None:
        if cancel_at is not None and fraction >= cancel_at:
            raise InterruptedError

    upstream = upstream_separator(model_dir, scratch)
    upstream.load_model(model)
    separator = MdxcSeparator(
        upstream.model_instance, options, batch=batch, transfer=pipelined_transfer() if pipelined else None
    )
    if reduced:
        step = separator.reduce_memory()
        assert step is not None
        assert step.step == "batch_1"
        assert isinstance(step.separator, MdxcSeparator)
        separator = step.separator
        assert separator.reduce_memory() is None
    blocks: dict[str, list[NDArray[np.float32]]] = {name: [] for name in separator.stems}
    error = None
    try:
        separator.separate(mixture, lambda name, block: blocks[name].append(block.T.copy()), on_progress)
    except (InterruptedError, RuntimeError) as raised:
        error = type(raised).__name__
    stems = {name: np.concatenate([np.empty((2, 0), np.float32), *parts], axis=1) for name, parts in blocks.items()}
    return MdxcRun(
        stems, separator.network.batch, error, [t.name for t in threading.enumerate() if "network" in t.name]
    )


def memory_steps(model_dir: Path, scratch: Path, model: str, batch: int) -> tuple[tuple[str, ...], ...]:
    """Return the reductions of each step for a short song, ten steps at most.

    ``batch``: segments in a batch before the first step, as on a GPU.
    """
    from processor.engine.oom_fallback import fallback_steps
    from processor.separation.architectures.mdx import MdxSeparator
    from processor.separation.architectures.vr import VrSeparator

    upstream = upstream_separator(model_dir, scratch)
    upstream.load_model(model)
    if model.endswith(".onnx"):
        mdx = MdxSeparator(upstream.model_instance)
        mdx._batch = batch
        return tuple(step.reductions for step in islice(fallback_steps(mdx, 1), 10))
    vr = VrSeparator(upstream.model_instance)
    vr.batch = batch
    return tuple(step.reductions for step in islice(fallback_steps(vr, 1), 10))


def peaks(model_dir: Path, scratch: Path, mixtures: list[Mixture], folder: Path, models: Iterable[str]) -> list[int]:
    """Return the peak resident set size of this process, bytes, while all models separate each of the songs."""
    found = []
    with _large_blocks_returned():
        for mixture in mixtures:
            MainMemory().give_back()
            Path("/proc/self/clear_refs").write_text("5")  # resets the peak: proc(5)
            for model in models:
                outcome, _ = run(model_dir, scratch, mixture, folder, model=model)
                assert not isinstance(outcome, Refusal), outcome
            (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
            found.append(int(line.split()[1]) * 1024)
    return found


@contextlib.contextmanager
def _large_blocks_returned() -> Iterator[None]:
    """Return freed blocks to the system if they are large: the memory that is kept otherwise varies by tens of MiB."""
    set_option = ctypes.CDLL(None).mallopt
    set_option(_MMAP_THRESHOLD, 1 << 20)
    try:
        yield
    finally:
        set_option(_MMAP_THRESHOLD, 1 << 25)


@functools.cache
def upstream_separator(model_dir: Path, scratch: Path) -> Any:
    from audio_separator.separator import Separator

    cached_engine(model_dir, scratch)  # puts ffmpeg on PATH
    return Separator(
        log_level=logging.WARNING,
        model_file_dir=str(model_dir),
        output_dir=str(scratch),
        output_format="WAV",
        normalization_threshold=1.0,
    )


@functools.cache
def cached_engine(model_dir: Path, scratch: Path, **options: object) -> SeparationEngine:
    from processor.engine.engine import SeparationEngine

    return SeparationEngine(store_in(model_dir, **options), scratch)


def run(
    model_dir: Path,
    scratch: Path,
    mixture: Mixture,
    folder: Path,
    *,
    model: str = DEMO_MODEL_NAME,
    stems: tuple[str, ...] | None = None,
    cancel_at: float | None = None,
    only: str | None = None,
    options: dict[str, Any] | None = None,
) -> tuple[tuple[Stem, ...] | Refusal, list[float]]:
    """Separate with the engine and return the stems or the error, and the progress.

    ``cancel_at``: share of the work after which it is cancelled. ``only``: audio-separator's option that silently
    leaves out all other stems. ``options``: of the model store.
    """
    engine = cached_engine(model_dir, scratch, **options or {})
    progress: list[float] = []
    cancel = CancelToken()

    def on_progress(fraction: float) -> None:
        progress.append(fraction)
        if cancel_at is not None and fraction >= cancel_at:
            cancel.cancel(ErrorCode.SHUTTING_DOWN)
        cancel.raise_if_set()

    def work() -> tuple[Stem, ...]:
        if only is not None:
            upstream_model(engine, model).output_single_stem = only
        return engine.separate(job, on_progress)

    job = Separate(1, mixture.path, mixture.peak, mixture.frames, folder, model, stems)
    return classified(work), progress


def load(model_dir: Path, scratch: Path, model: str, *, require_gpu: bool = False, **options: object) -> str | Refusal:
    """Load a model with a new engine and return the device or the error. ``options``: of the model store."""
    from processor.engine.engine import SeparationEngine

    def work() -> str:
        engine = SeparationEngine(store_in(model_dir, **options), scratch, require_gpu=require_gpu)
        engine.load(model)
        return engine.device

    device: str | Refusal = classified(work)
    return device


def listed(model_dir: Path, scratch: Path) -> dict[str, tuple[str, str, tuple[str, ...], tuple[str, ...]]]:
    """Return audio-separator's list: title, architecture, files and stems of each model, by name."""
    upstream = upstream_separator(model_dir, scratch)
    models: dict[str, tuple[str, str, tuple[str, ...], tuple[str, ...]]] = {}
    for architecture, group in upstream.list_supported_model_files().items():
        for title, model in group.items():
            files = tuple(dict.fromkeys(model["download_files"]))
            models.setdefault(model["filename"], (title, architecture, files, tuple(model["stems"])))
    return models


def requested_urls(model_dir: Path, scratch: Path, names: list[str]) -> dict[str, tuple[str, ...]]:
    """Return the URLs that audio-separator requests for each model's files, in order, if only the last one works."""
    upstream = upstream_separator(model_dir, scratch)
    requested: list[str] = []

    def fetch(url: str, path: str) -> None:
        if not Path(path).exists():
            requested.append(url)
            if "TRvlvr" in url or "Anjok0109" in url:
                raise RuntimeError("not here")

    own, upstream.download_file_if_not_exists = upstream.download_file_if_not_exists, fetch
    found = {}
    try:
        for name in names:
            requested.clear()
            with contextlib.suppress(RuntimeError):  # models that are listed by URL have only one
                upstream.download_model_files(name)
            found[name] = tuple(requested)
    finally:
        upstream.download_file_if_not_exists = own
    return found


def classified(work: Callable[[], Any]) -> Any:
    from processor.engine.engine import classify

    try:
        return work()
    except Exception as error:
        known = classify(error)
        if known is None:
            raise
        assert isinstance(known, PipelineError)
        return Refusal(known.kind, known.code, known.message)


def upstream_model(engine: SeparationEngine, name: str) -> Any:
    """Return audio-separator's object of a model that it runs itself."""
    from processor.separation.architectures.fallback import UpstreamSeparator

    separator = engine.load(name)
    assert isinstance(separator, UpstreamSeparator)
    return separator._model


def remaining_hooks(model_dir: Path, scratch: Path, name: str) -> dict[str, bool]:
    """Return which replaced attributes are still in place after audio-separator has run a Demucs model."""
    model = upstream_model(cached_engine(model_dir, scratch), name)
    loop = sys.modules["audio_separator.separator.uvr_lib_v5.demucs.apply"]
    return {
        "tqdm": type(vars(loop)["tqdm"]).__module__.startswith("processor"),
        "final_process": "final_process" in vars(model),
    }


def read(stem: Stem) -> NDArray[np.float32]:
    """Return the samples ``(channels, frames)``."""
    samples: NDArray[np.float32] = soundfile.read(stem.path, dtype="float32")[0]
    return samples.T
