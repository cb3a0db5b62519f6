"""When memory runs out: what is tried, in which order, and that the child lives on.

Provoked for real, by RLIMIT_DATA.
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
from structlog.testing import capture_logs

from demo import tiny_models
from demo.tiny_models import DemucsModel
from pipeline.cancellation import CancelToken
from pipeline.errors import CancelledError, ErrorCode, TransientError
from pipeline.model_choice import Ensemble
from processor.audio.decode import Mixture
from processor.audio.wav import SAMPLE_RATE, write_wav
from processor.engine.oom_fallback import CHUNK_SECONDS, OomFallback, fallback_steps
from processor.ipc import ChildSettings, Done
from processor.models.errors import load_errors
from processor.separation.separator import OnProgress, ReducedSeparator, Write
from processor.system.oom import is_out_of_memory
from processor.workers import supervisor
from processor.workers.supervisor import WorkerSupervisor
from tests.processor.engine import memory_experiments
from tests.processor.engine.memory_experiments import MIB, data_bytes
from tests.processor.workers.test_real_child import pid_of

LONG = 60 * SAMPLE_RATE
#: The child, with large blocks of memory given back at once: by default the C library keeps addresses, which count.
COMMAND = ("env", "MALLOC_MMAP_THRESHOLD_=1000000", *supervisor.COMMAND)
FOUR = ["drums", "bass", "other", "vocals"]


class Steps:
    """A driver that has so many lighter versions."""

    device, stems = "cpu", None

    def __init__(self, *steps: str) -> None:
        self._steps = steps

    def only(self, wanted: Collection[str]) -> Steps:
        raise NotImplementedError

    def lighter(self) -> ReducedSeparator | None:
        return ReducedSeparator(self._steps[0], Steps(*self._steps[1:])) if self._steps else None

    def separate(self, mixture: Path, write: Write, on_progress: OnProgress) -> None:
        raise NotImplementedError


class Tries:
    """Memory is enough at the try of that number."""

    def __init__(self, enough_at: int) -> None:
        self._enough_at = enough_at
        self.separators: list[object] = []

    def __call__(self, separator: object) -> str:
        self.separators.append(separator)
        if len(self.separators) < self._enough_at:
            raise MemoryError
        return "done"


def test_at_the_top_nothing_is_given_up() -> None:
    ladder = OomFallback(lambda: False)
    with capture_logs() as lines:
        assert ladder.run(Steps("batch_1"), LONG, Tries(1)) == "done"
    assert (ladder.steps, lines) == ((), [])


@pytest.mark.parametrize(
    ("tries", "steps"),
    [
        (2, ("batch_1",)),
        (3, ("batch_1", "segment_half")),
        (4, ("batch_1", "segment_half", "chunks_30s")),
        (5, ("batch_1", "segment_half", "chunks_10s")),
    ],
)
def test_one_rung_after_the_other_is_tried_and_told(tries: int, steps: tuple[str, ...]) -> None:
    ladder = OomFallback(lambda: False)
    with capture_logs() as lines:
        assert ladder.run(Steps("batch_1", "segment_half"), LONG, Tries(tries)) == "done"
    assert ladder.steps == steps
    assert [line["event"] for line in lines] == ["memory_ran_out"] * (tries - 1) + ["separated_with_less_memory"]
    assert lines[-1]["steps"] == list(steps)


def test_when_others_make_room_the_same_is_tried_again() -> None:
    room = iter([True, False])
    ladder, tries = OomFallback(lambda: next(room)), Tries(3)
    ladder.run(Steps("batch_1"), LONG, tries)
    assert ladder.steps == ("batch_1",)
    first, again, lighter = tries.separators
    assert first is again is not lighter


def test_in_the_end_it_is_told_that_there_is_not_enough() -> None:
    with pytest.raises(TransientError) as caught:
        OomFallback(lambda: False).run(Steps("batch_1"), LONG, Tries(100))
    assert caught.value.code is ErrorCode.OUT_OF_MEMORY


def test_chunks_are_for_songs_that_are_longer() -> None:
    for frames, count in ((CHUNK_SECONDS[1] * SAMPLE_RATE, 0), (CHUNK_SECONDS[0] * SAMPLE_RATE, 1), (LONG, 2)):
        assert len(list(fallback_steps(Steps(), frames))) == 1 + count


@pytest.mark.parametrize("error", [ValueError("the audio"), CancelledError("", code=ErrorCode.SHUTTING_DOWN)], ids=repr)
def test_other_errors_are_not_tried_again(error: Exception) -> None:
    def attempt(_separator: object) -> None:
        try:
            raise MemoryError
        except MemoryError:
            raise error from None

    with pytest.raises(type(error)), capture_logs() as lines:
        OomFallback(lambda: True).run(Steps("batch_1"), LONG, attempt)
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
def test_a_lack_of_memory_is_recognised_behind_what_is_made_of_it(error: Exception) -> None:
    made = ValueError("the audio cannot be read")
    made.__context__ = error
    assert is_out_of_memory(error)
    assert is_out_of_memory(made)
    made.__suppress_context__ = True
    assert not is_out_of_memory(made)


@pytest.mark.parametrize(
    "error", [ValueError("out of memory"), RuntimeError("size mismatch"), OSError(errno.ENOSPC, "")]
)
def test_other_errors_are_none(error: Exception) -> None:
    assert not is_out_of_memory(error)


def test_a_model_for_which_there_is_not_enough_is_not_called_damaged() -> None:
    with pytest.raises(TransientError) as caught, load_errors("large.ckpt"):
        raise MemoryError
    assert caught.value.code is ErrorCode.OUT_OF_MEMORY


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "kind"),
    [
        ("python", "MemoryError"),
        ("numpy", "MemoryError"),
        ("torch", "RuntimeError"),
        ("onnxruntime", "Fail"),
        ("onnxruntime without its arena", "RuntimeException"),
    ],
)
def test_what_the_libraries_really_raise(library: ProcessPoolExecutor, what: str, kind: str) -> None:
    assert library.submit(memory_experiments.provoked, what).result(110) == kind


# --- the real child; all of a song lies in few layers, so that there is much to hold and little to compute ---


def _wide(channels: int, seconds: int) -> DemucsModel:
    plain = {"depth": 1, "resample": False, "dconv_mode": 0, "rewrite": False}
    return DemucsModel("demucs.Demucs", {"sources": FOUR, "channels": channels, "segment": seconds, **plain})


#: About 17 MB for each second of what is separated at a time, 130 MB of the last one.
MODELS = {"wide": _wide(64, 20), "endless": _wide(64, 160), "vast": _wide(512, 20)}


@pytest.fixture(scope="module")
def small_child(library: ProcessPoolExecutor, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerSupervisor]:
    folder = tmp_path_factory.mktemp("small")
    library.submit(tiny_models.write_demucs_models, folder / "models", MODELS).result(110)
    process = WorkerSupervisor(ChildSettings(folder / "models", "wide.yaml", False, folder), COMMAND)
    yield process
    process.close()


@contextmanager
def limited(pid: int, room: int) -> Iterator[None]:
    """A process that can have so many bytes more than it has."""
    unlimited = resource.RLIM_INFINITY
    resource.prlimit(pid, resource.RLIMIT_DATA, (data_bytes(pid) + room, unlimited))
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
def test_shorter_segments_save_a_song_and_the_next_one_is_whole_again(
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
def test_chunks_save_a_song_that_no_lighter_driver_can(small_child: WorkerSupervisor, tmp_path: Path) -> None:
    pid = pid_of(small_child)
    separated(small_child, noise_of(tmp_path, 0.1), "endless.yaml")  # loaded: the song has to do with its own memory
    song = noise_of(tmp_path, 25)
    with limited(pid, 310 * MIB):
        done, _ = separated(small_child, song, "endless.yaml")
    assert done.degraded == ("segment_half", "segment_quarter", "chunks_10s")
    assert done.stems[0].frames == song.frames
    assert {path.name for path in tmp_path.iterdir()} == {"song.wav", "vocals.wav"}
    assert pid_of(small_child) == pid


@pytest.mark.slow
def test_each_model_of_an_ensemble_has_its_own_tries(small_child: WorkerSupervisor, tmp_path: Path) -> None:
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
def test_where_nothing_suffices_the_job_fails_and_the_child_lives_on(
    small_child: WorkerSupervisor, tmp_path: Path
) -> None:
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
