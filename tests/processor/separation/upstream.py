"""What the tests do with audio-upstream itself; see the fixture ``library``."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import logging
import sys
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
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

Stems = dict[str, NDArray[np.float32]]
"""Samples ``(channels, frames)`` by name."""


#: An option of glibc's mallopt(3).
_MMAP_THRESHOLD = -3


@dataclass(frozen=True)
class Refusal:
    """A classified error; exceptions of ours do not survive pickling."""

    kind: str
    code: str
    message: str


def stock_stems(
    model_dir: Path, mixture: Path, scratch: Path, *, model: str = DEMO_MODEL_NAME, denoise: bool = False
) -> Stems:
    """What an unmodified Separator hands to its writer."""
    upstream = _stock(model_dir, scratch)
    upstream.load_model(model)
    upstream.model_instance.enable_denoise = denoise
    stems: Stems = {}

    def capture(_path: str, source: Any, name: str) -> dict[str, Any]:
        stems[name.lower().replace(" ", "_")] = np.array(source.T)
        return {name: source}

    upstream.model_instance.final_process = capture
    upstream.separate(str(mixture))
    return stems


def driven_stems(
    model_dir: Path,
    mixture: Path,
    scratch: Path,
    *,
    model: str,
    denoise: bool = False,
    batch: int | None = None,
    ahead: bool = False,
    options: DeviceOptions | None = None,
) -> Stems:
    """What our separator gives of an MDX model. ``batch``: how many segments its network is given at a time. ``ahead``:
    the way of a GPU, with its thread. ``options``: how the network is run."""
    from processor.separation.architectures.mdx import MdxSeparator

    upstream = _stock(model_dir, scratch)
    upstream.load_model(model)
    upstream.model_instance.enable_denoise = denoise
    separator = MdxSeparator(upstream.model_instance, options, lane=lane_ahead() if ahead else None)
    if batch is not None:
        separator._batch = batch
    blocks: dict[str, list[NDArray[np.float32]]] = {}
    separator.separate(mixture, lambda name, block: blocks.setdefault(name, []).append(block.T), lambda _: None)
    return {name: np.concatenate(parts, axis=1) for name, parts in blocks.items()}


def lane_ahead() -> DeviceTransfer:
    """The way of a GPU, with its thread, to the CPU."""
    import torch

    from processor.separation.runtime.device_transfer import DirectTransfer, one_ahead

    class Ahead(DirectTransfer):
        def map(self, work: Callable[[Any], Any], items: Iterable[Any]) -> Generator[Any, None, None]:
            return one_ahead(work, items)

    return Ahead(torch.device("cpu"))


@dataclass(frozen=True)
class MdxcRun:
    """What our separator made of an MDXC model and a song."""

    stems: Stems
    batch: int
    """How many segments its network was given at a time in the end."""
    error: str | None
    """The name of the exception that ended it."""
    threads: list[str]
    """That are left of it."""


def mdxc_run(
    model_dir: Path,
    mixture: Path,
    scratch: Path,
    *,
    model: str,
    batch: int | None = None,
    ahead: bool = False,
    options: DeviceOptions | None = None,
    lighter: bool = False,
    cancel_at: float | None = None,
) -> MdxcRun:
    """``batch``: how many segments the network is given at a time. ``ahead``: the way of a GPU, with its thread.
    ``options``: how the network is run. ``lighter``: the way that needs less memory. ``cancel_at``: the share of the
    work at which it is cancelled."""
    from processor.separation.architectures.mdxc import MdxcSeparator

    def on_progress(fraction: float) -> None:
        if cancel_at is not None and fraction >= cancel_at:
            raise InterruptedError

    upstream = _stock(model_dir, scratch)
    upstream.load_model(model)
    separator = MdxcSeparator(upstream.model_instance, options, batch=batch, lane=lane_ahead() if ahead else None)
    if lighter:
        step = separator.lighter()
        assert step is not None
        assert step.step == "batch_1"
        assert isinstance(step.separator, MdxcSeparator)
        separator = step.separator
        assert separator.lighter() is None
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


def peaks(model_dir: Path, scratch: Path, mixtures: list[Mixture], folder: Path, models: Iterable[str]) -> list[int]:
    """The largest resident set of this process while each of the songs goes through all of the models, bytes."""
    found = []
    with _large_blocks_returned():
        for mixture in mixtures:
            MainMemory().give_back()
            Path("/proc/self/clear_refs").write_text("5")  # from here on, the largest is another one: proc(5)
            for model in models:
                outcome, _ = run(model_dir, scratch, mixture, folder, model=model)
                assert not isinstance(outcome, Refusal), outcome
            (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
            found.append(int(line.split()[1]) * 1024)
    return found


@contextlib.contextmanager
def _large_blocks_returned() -> Iterator[None]:
    """What is freed goes back to the system, if it is large: what is kept for the next time differs by tens of MiB."""
    set_option = ctypes.CDLL(None).mallopt
    set_option(_MMAP_THRESHOLD, 1 << 20)
    try:
        yield
    finally:
        set_option(_MMAP_THRESHOLD, 1 << 25)


@functools.cache
def _stock(model_dir: Path, scratch: Path) -> Any:
    from audio_separator.separator import Separator

    _engine(model_dir, scratch)  # which puts ffmpeg on PATH
    return Separator(
        log_level=logging.WARNING,
        model_file_dir=str(model_dir),
        output_dir=str(scratch),
        output_format="WAV",
        normalization_threshold=1.0,
    )


@functools.cache
def _engine(model_dir: Path, scratch: Path, **options: object) -> SeparationEngine:
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
    """Separate with the engine: the stems or why there are none, and the progress.

    ``cancel_at``: share of the work after which it is cancelled. ``only``: the library's own option that has it leave
    out the other stem without a word. ``options``: the model store's.
    """
    engine = _engine(model_dir, scratch, **options or {})
    progress: list[float] = []
    cancel = CancelToken()

    def on_progress(fraction: float) -> None:
        progress.append(fraction)
        if cancel_at is not None and fraction >= cancel_at:
            cancel.cancel(ErrorCode.SHUTTING_DOWN)
        cancel.raise_if_set()

    def work() -> tuple[Stem, ...]:
        if only is not None:
            _library_model(engine, model).output_single_stem = only
        return engine.separate(job, on_progress)

    job = Separate(1, mixture.path, mixture.peak, mixture.frames, folder, model, stems)
    return _classified(work), progress


def load(model_dir: Path, scratch: Path, model: str, *, require_gpu: bool = False, **options: object) -> str | Refusal:
    """Load a model with an engine of its own; the device, or why it cannot be. ``options``: the store's."""
    from processor.engine.engine import SeparationEngine

    def work() -> str:
        engine = SeparationEngine(store_in(model_dir, **options), scratch, require_gpu=require_gpu)
        engine.load(model)
        return engine.device

    device: str | Refusal = _classified(work)
    return device


def listed(model_dir: Path, scratch: Path) -> dict[str, tuple[str, str, tuple[str, ...], tuple[str, ...]]]:
    """The library's own list: title, architecture, files and stems of each model, by name."""
    upstream = _engine(model_dir, scratch)._upstream
    models: dict[str, tuple[str, str, tuple[str, ...], tuple[str, ...]]] = {}
    for architecture, group in upstream.list_supported_model_files().items():
        for title, model in group.items():
            files = tuple(dict.fromkeys(model["download_files"]))
            models.setdefault(model["filename"], (title, architecture, files, tuple(model["stems"])))
    return models


def asked_for(model_dir: Path, scratch: Path, names: list[str]) -> dict[str, tuple[str, ...]]:
    """Which addresses the library asks for the files of each model, in order, if only the last of each has it."""
    upstream = _engine(model_dir, scratch)._upstream
    asked: list[str] = []

    def fetch(url: str, path: str) -> None:
        if not Path(path).exists():
            asked.append(url)
            if "TRvlvr" in url or "Anjok0109" in url:
                raise RuntimeError("not here")

    own, upstream.download_file_if_not_exists = upstream.download_file_if_not_exists, fetch
    found = {}
    try:
        for name in names:
            asked.clear()
            with contextlib.suppress(RuntimeError):  # what is listed by its address is there or nowhere
                upstream.download_model_files(name)
            found[name] = tuple(asked)
    finally:
        upstream.download_file_if_not_exists = own
    return found


def _classified(work: Callable[[], Any]) -> Any:
    from processor.engine.engine import classify

    try:
        return work()
    except Exception as error:
        known = classify(error)
        if known is None:
            raise
        assert isinstance(known, PipelineError)
        return Refusal(known.kind, known.code, known.message)


def _library_model(engine: SeparationEngine, name: str) -> Any:
    """The library's own object, of a model that the library runs itself."""
    from processor.separation.architectures.fallback import UpstreamSeparator

    separator = engine.load(name)
    assert isinstance(separator, UpstreamSeparator)
    return separator._model


def hooks_left(model_dir: Path, scratch: Path, name: str) -> dict[str, bool]:
    """What of ours is still in the library after it has run a Demucs model."""
    model = _library_model(_engine(model_dir, scratch), name)
    loop = sys.modules["audio_separator.separator.uvr_lib_v5.demucs.apply"]
    return {
        "tqdm": type(vars(loop)["tqdm"]).__module__.startswith("processor"),
        "final_process": "final_process" in vars(model),
    }


def read(stem: Stem) -> NDArray[np.float32]:
    """Samples ``(channels, frames)``."""
    samples: NDArray[np.float32] = soundfile.read(stem.path, dtype="float32")[0]
    return samples.T
