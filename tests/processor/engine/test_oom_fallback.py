"""Out-of-memory fallback: the steps and their order, and that the child survives.

The slow tests run out of memory for real, by RLIMIT_DATA.
"""

from __future__ import annotations

import errno
import resource
from collections.abc import Collection, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import soundfile
from structlog.testing import capture_logs

from demo import tiny_models
from demo.tiny_models import DemucsModel
from pipeline.cancellation import CancelToken
from pipeline.errors import CancelledError, ErrorCode, TransientError
from pipeline.model_choice import Ensemble
from processor.audio.decode import Mixture
from processor.audio.wav import SAMPLE_RATE, write_wav
from processor.engine.oom_fallback import CHUNK_SECONDS, OomFallback, fallback_steps
from processor.ipc import Done
from processor.models.errors import load_errors
from processor.separation.separator import OnProgress, ReducedSeparator, Write
from processor.system.oom import is_out_of_memory
from processor.workers import supervisor
from processor.workers.supervisor import WorkerSupervisor
from tests.processor.child_settings import child_settings
from tests.processor.engine import memory_calls
from tests.processor.engine.memory_calls import MIB, data_bytes
from tests.processor.workers.test_real_child import pid_of

LONG = 60 * SAMPLE_RATE
#: The child, which returns large blocks of memory at once: by default the C library keeps their addresses, which count.
COMMAND = ("env", "MALLOC_MMAP_THRESHOLD_=1000000", *supervisor.COMMAND)
FOUR = ["drums", "bass", "other", "vocals"]


class ReducibleSeparator:
    """A separator with the given memory-reduction steps."""

    device, stems = "cpu", None

    def __init__(self, *steps: str) -> None:
        self._steps = steps

    def only(self, wanted: Collection[str]) -> ReducibleSeparator:
        raise NotImplementedError

    def reduce_memory(self) -> ReducedSeparator | None:
        return ReducedSeparator(self._steps[0], ReducibleSeparator(*self._steps[1:])) if self._steps else None

    def separate(self, mixture: Path, write: Write, on_progress: OnProgress) -> None:
        raise NotImplementedError


class RecordingSeparator(ReducibleSeparator):
    """Records the lengths of the songs that it separates, s."""

    def __init__(self, *steps: str) -> None:
        super().__init__(*steps)
        self.seconds: list[float] = []

    @property
    def steps(self) -> tuple[str, ...]:
        return self._steps

    def reduce_memory(self) -> ReducedSeparator | None:
        return ReducedSeparator(self._steps[0], RecordingSeparator(*self._steps[1:])) if self._steps else None

    def separate(self, mixture: Path, write: Write, on_progress: OnProgress) -> None:
        with soundfile.SoundFile(mixture) as song:
            self.seconds.append(song.frames / SAMPLE_RATE)
            for block in song.blocks(SAMPLE_RATE, dtype="float32", always_2d=True):
                write("vocals", block)


class Attempts:
    """Raises MemoryError until the attempt number ``enough_at``."""

    def __init__(self, enough_at: int) -> None:
        self._enough_at = enough_at
        self.separators: list[object] = []

    def __call__(self, separator: object) -> str:
        self.separators.append(separator)
        if len(self.separators) < self._enough_at:
            raise MemoryError
        return "done"


def test_first_step_has_no_reductions() -> None:
    fallback = OomFallback(lambda: False)
    with capture_logs() as lines:
        assert fallback.run(ReducibleSeparator("batch_1"), LONG, Attempts(1)) == "done"
    assert (fallback.reductions, lines) == ((), [])


@pytest.mark.parametrize(
    ("attempts", "steps"),
    [
        (2, ("batch_1",)),
        (3, ("batch_1", "segment_half")),
        (4, ("batch_1", "segment_half", "chunks_30s")),
        (5, ("batch_1", "segment_half", "chunks_10s")),
    ],
)
def test_steps_are_tried_in_order_and_reported(attempts: int, steps: tuple[str, ...]) -> None:
    fallback = OomFallback(lambda: False)
    with capture_logs() as lines:
        assert fallback.run(ReducibleSeparator("batch_1", "segment_half"), LONG, Attempts(attempts)) == "done"
    assert fallback.reductions == steps
    assert [line["event"] for line in lines] == ["out_of_memory"] * (attempts - 1) + ["separated_with_less_memory"]
    assert lines[-1]["steps"] == list(steps)


def test_same_step_is_retried_after_memory_was_freed() -> None:
    freed = iter([True, False])
    fallback, attempts = OomFallback(lambda: next(freed)), Attempts(3)
    fallback.run(ReducibleSeparator("batch_1"), LONG, attempts)
    assert fallback.reductions == ("batch_1",)
    first, again, reduced = attempts.separators
    assert first is again is not reduced


def test_error_after_the_last_step() -> None:
    with pytest.raises(TransientError, match="not enough memory to separate this song") as caught:
        OomFallback(lambda: False).run(ReducibleSeparator("batch_1"), LONG, Attempts(100))
    assert caught.value.code is ErrorCode.OUT_OF_MEMORY


def test_each_step_runs_its_own_separator(tmp_path: Path) -> None:
    song = noise_of(tmp_path, 40).path
    plain, reduced, long, short = (step.separator for step in fallback_steps(RecordingSeparator("batch_1"), LONG))
    for separator in (plain, reduced, long, short):
        separator.separate(song, lambda _name, _block: None, lambda _share: None)
    assert isinstance(plain, RecordingSeparator)
    assert isinstance(reduced, RecordingSeparator)
    assert (plain.steps, plain.seconds) == (("batch_1",), [40.0])
    # The chunks are run by the separator with the least memory.
    in_chunks = {seconds: reduced.seconds.count(seconds) for seconds in (40.0, 30.0, 10.0)}
    assert (reduced.steps, in_chunks) == ((), {40.0: 1, 30.0: 2, 10.0: 5})


def test_reductions_of_all_models_of_a_job_are_reported() -> None:
    fallback = OomFallback(lambda: False)
    for step in ("batch_1", "segment_half", "batch_1"):
        fallback.run(ReducibleSeparator(step), LONG, Attempts(2))
    assert fallback.reductions == ("batch_1", "segment_half")


@pytest.mark.parametrize(
    ("error", "text"), [(MemoryError("x" * 300), "x" * 200), (MemoryError(), "MemoryError")], ids=["long", "empty"]
)
def test_lack_of_memory_is_logged_with_a_short_reason(error: MemoryError, text: str) -> None:
    def attempt(_separator: object) -> None:
        raise error

    with capture_logs() as lines, pytest.raises(TransientError):
        OomFallback(lambda: False).run(ReducibleSeparator(), SAMPLE_RATE, attempt)
    assert [line["error"] for line in lines] == [text]


def test_chunks_are_only_for_longer_songs() -> None:
    for frames, count in ((CHUNK_SECONDS[1] * SAMPLE_RATE, 0), (CHUNK_SECONDS[0] * SAMPLE_RATE, 1), (LONG, 2)):
        assert len(list(fallback_steps(ReducibleSeparator(), frames))) == 1 + count


@pytest.mark.parametrize("error", [ValueError("the audio"), CancelledError("", code=ErrorCode.SHUTTING_DOWN)], ids=repr)
def test_other_errors_are_not_retried(error: Exception) -> None:
    def attempt(_separator: object) -> None:
        try:
            raise MemoryError
        except MemoryError:
            raise error from None

    with pytest.raises(type(error)), capture_logs() as lines:
        OomFallback(lambda: True).run(ReducibleSeparator("batch_1"), LONG, attempt)
    assert lines == []


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"),
        RuntimeError("cuFFT error: CUFFT_ALLOC_FAILED"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
    ids=repr,
)
def test_out_of_memory_is_recognised_in_the_context_of_an_error(error: Exception) -> None:
    raised = ValueError("the audio cannot be read")
    raised.__context__ = error
    assert is_out_of_memory(error)
    assert is_out_of_memory(raised)
    raised.__suppress_context__ = True
    assert not is_out_of_memory(raised)


@pytest.mark.parametrize(
    "error", [ValueError("out of memory"), RuntimeError("size mismatch"), OSError(errno.ENOSPC, "")]
)
def test_other_errors_are_not_out_of_memory(error: Exception) -> None:
    assert not is_out_of_memory(error)


def test_out_of_memory_while_loading_is_not_a_damaged_model() -> None:
    with pytest.raises(TransientError) as caught, load_errors("large.ckpt"):
        raise MemoryError
    assert caught.value.code is ErrorCode.OUT_OF_MEMORY


@pytest.mark.slow
@pytest.mark.parametrize(
    ("allocator", "kind"),
    [
        ("python", "MemoryError"),
        ("numpy", "MemoryError"),
        ("torch", "RuntimeError"),
        ("onnxruntime", "Fail"),
        ("onnxruntime without its arena", "RuntimeException"),
    ],
)
def test_out_of_memory_errors_of_the_libraries(
    upstream_process: ProcessPoolExecutor, allocator: str, kind: str
) -> None:
    assert upstream_process.submit(memory_calls.provoked_error, allocator).result(110) == kind


# --- the real child, with models that need much memory and little computation ---


def _wide(channels: int, seconds: int) -> DemucsModel:
    plain = {"depth": 1, "resample": False, "dconv_mode": 0, "rewrite": False}
    return DemucsModel("demucs.Demucs", {"sources": FOUR, "channels": channels, "segment": seconds, **plain})


#: About 17 MB per second of a segment; the last model takes 130 MB per second.
MODELS = {"wide": _wide(64, 20), "endless": _wide(64, 160), "vast": _wide(512, 20)}


@pytest.fixture(scope="module")
def small_child(
    upstream_process: ProcessPoolExecutor, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[WorkerSupervisor]:
    folder = tmp_path_factory.mktemp("small")
    upstream_process.submit(tiny_models.write_demucs_models, folder / "models", MODELS).result(110)
    process = WorkerSupervisor(child_settings(folder / "models", "wide.yaml", folder), COMMAND)
    yield process
    process.close()


@contextmanager
def limited(pid: int, extra: int) -> Iterator[None]:
    """Limit a process to ``extra`` bytes more than it has now."""
    unlimited = resource.RLIM_INFINITY
    resource.prlimit(pid, resource.RLIMIT_DATA, (data_bytes(pid) + extra, unlimited))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_DATA, (unlimited, unlimited))


def noise_of(folder: Path, seconds: float) -> Mixture:
    samples = np.random.default_rng(0).uniform(-1.0, 1.0, (int(seconds * SAMPLE_RATE), 2)).astype(np.float32)
    write_wav(folder / "song.wav", [samples], channels=2)
    return Mixture(folder / "song.wav", 1.0, len(samples), ())


def separated(child: WorkerSupervisor, song: Mixture, model: str | Ensemble) -> tuple[Done, list[float]]:
    progress: list[float] = []
    done = child.separate(
        song,
        song.path.parent,
        model=model,
        stems=("vocals",),
        timeout=60.0,
        cancel=CancelToken(),
        on_progress=progress.append,
    )
    return done, progress


@pytest.mark.slow
def test_shorter_segments_succeed_and_the_next_song_is_not_reduced(
    small_child: WorkerSupervisor, tmp_path: Path
) -> None:
    pid, song = pid_of(small_child), noise_of(tmp_path, 20)
    with limited(pid, 220 * MIB):
        done, progress = separated(small_child, song, "wide.yaml")
    assert done.degraded in (("segment_half",), ("segment_half", "segment_quarter"))
    assert [(stem.name, stem.frames) for stem in done.stems] == [("vocals", song.frames)]
    assert progress == sorted(progress)

    whole, _ = separated(small_child, song, "wide.yaml")
    assert whole.degraded == ()
    assert whole.stems[0].sha256 != done.stems[0].sha256
    assert pid_of(small_child) == pid


@pytest.mark.slow
def test_chunks_succeed_where_reduced_separators_fail(small_child: WorkerSupervisor, tmp_path: Path) -> None:
    pid = pid_of(small_child)
    separated(small_child, noise_of(tmp_path, 0.1), "endless.yaml")  # loads the model before the limit applies
    song = noise_of(tmp_path, 25)
    with limited(pid, 310 * MIB):
        done, _ = separated(small_child, song, "endless.yaml")
    assert done.degraded == ("segment_half", "segment_quarter", "chunks_10s")
    assert done.stems[0].frames == song.frames
    assert {path.name for path in tmp_path.iterdir()} == {"song.wav", "vocals.wav"}
    assert pid_of(small_child) == pid


@pytest.mark.slow
def test_each_model_of_an_ensemble_has_its_own_fallback(small_child: WorkerSupervisor, tmp_path: Path) -> None:
    pid = pid_of(small_child)
    both = Ensemble(ensemble=("wide.yaml", "endless.yaml"))
    separated(small_child, noise_of(tmp_path, 0.1), both)
    song = noise_of(tmp_path, 25)
    with limited(pid, 310 * MIB):
        done, progress = separated(small_child, song, both)
    assert set(done.degraded) == {"segment_half", "segment_quarter", "chunks_10s"}
    assert [(stem.name, stem.frames) for stem in done.stems] == [("vocals", song.frames)]
    assert progress == sorted(progress)
    assert {path.name for path in tmp_path.iterdir()} == {"song.wav", "vocals.wav"}
    assert pid_of(small_child) == pid


@pytest.mark.slow
def test_job_fails_and_the_child_survives_if_no_step_succeeds(small_child: WorkerSupervisor, tmp_path: Path) -> None:
    pid = pid_of(small_child)
    separated(small_child, noise_of(tmp_path, 0.1), "vast.yaml")
    (tmp_path / "vocals.wav").unlink()
    song = noise_of(tmp_path, 12)
    with limited(pid, 64 * MIB), pytest.raises(TransientError) as caught:
        separated(small_child, song, "vast.yaml")
    assert caught.value.code is ErrorCode.OUT_OF_MEMORY
    assert caught.value.message == "there is not enough memory to separate this song, not even in short chunks"
    assert [path.name for path in tmp_path.iterdir()] == ["song.wav"]

    assert separated(small_child, song, "wide.yaml")[0].degraded == ()
    assert pid_of(small_child) == pid
