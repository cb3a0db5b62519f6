"""Tiny untrained models of other architectures than the demo's: download, loading, separation, stems."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from demo import tiny_models
from pipeline.errors import ErrorCode, ErrorKind
from processor.audio.decode import Mixture
from tests.processor.models.model_source import record_hashes
from tests.processor.separation import upstream_calls as calls
from tests.processor.separation.upstream_calls import Refusal
from tests.processor.source_files import decoded, noise, write_pcm
from tests.support.source_server import SourceServer, answer, sequence

pytestmark = pytest.mark.slow


@pytest.fixture
def song(tmp_path: Path) -> Mixture:
    return decoded(write_pcm(tmp_path / "song.wav", noise(3.0), subtype="FLOAT")).mixture


@pytest.fixture
def source() -> Iterator[SourceServer]:
    with SourceServer() as server:
        yield server


def demucs(upstream_process: ProcessPoolExecutor, model_dir: Path) -> str:
    """Write a Demucs model that audio-separator runs itself and return its name."""
    upstream_process.submit(tiny_models.write_demucs_models, model_dir, {"dicing": tiny_models.DICING}).result(60)
    return "dicing.yaml"


@pytest.mark.parametrize("instruments", [["Vocals", "Instrumental"], ["vocals", "drums", "bass", "Wind Inst"]])
def test_mdxc_writes_all_its_stems(
    upstream_process: ProcessPoolExecutor, tmp_path: Path, song: Mixture, instruments: list[str]
) -> None:
    model_dir = tmp_path / "models"
    model = upstream_process.submit(tiny_models.write_mdxc, model_dir, instruments).result(60)

    stems, progress = upstream_process.submit(calls.run, model_dir, tmp_path, song, tmp_path, model=model).result(60)

    assert not isinstance(stems, Refusal), stems
    assert {stem.name for stem in stems} == {name.lower().replace(" ", "_") for name in instruments}
    assert {stem.frames for stem in stems} == {song.frames}
    assert progress == sorted(progress)


@pytest.mark.parametrize(
    ("only", "absent"),
    [("Vocals", "bass and no drums and no other"), ("Kazoo", "bass and no drums and no other and no vocals")],
)
def test_stem_that_upstream_leaves_out_is_an_error(
    upstream_process: ProcessPoolExecutor, tmp_path: Path, song: Mixture, only: str, absent: str
) -> None:
    """audio-separator returns an empty list if its option names an unknown stem."""
    model_dir = tmp_path / "models"
    model = demucs(upstream_process, model_dir)

    refusal, _ = upstream_process.submit(calls.run, model_dir, tmp_path, song, tmp_path, model=model, only=only).result(
        60
    )

    assert refusal == Refusal(
        ErrorKind.PERMANENT, ErrorCode.STEM_MISSING, f"the separation failed: the model gave no {absent}"
    )


def test_upstream_is_restored_after_a_run(upstream_process: ProcessPoolExecutor, tmp_path: Path, song: Mixture) -> None:
    """Otherwise every job would add a wrapper, and the last song would stay in memory."""
    model_dir = tmp_path / "models"
    model = demucs(upstream_process, model_dir)
    folder = tmp_path / "stems"
    folder.mkdir()
    for cancel_at in (None, 0.0):
        run = upstream_process.submit(calls.run, model_dir, tmp_path, song, folder, model=model, cancel_at=cancel_at)
        run.result(60)
    remaining = upstream_process.submit(calls.remaining_hooks, model_dir, tmp_path, model).result(60)
    assert remaining == {"tqdm": False, "final_process": False}
    assert [path.name for path in tmp_path.glob("*.wav")] == ["song.wav"]


def test_listed_model_is_downloaded_with_all_its_files(
    upstream_process: ProcessPoolExecutor, tmp_path: Path, song: Mixture, source: SourceServer
) -> None:
    served, model_dir = tmp_path / "served", tmp_path / "models"
    served.mkdir()
    name, weights = upstream_process.submit(tiny_models.write_demucs, served).result(60)
    tiny_models.list_demucs(model_dir, name, weights, source.url(""))
    contents = {file: (served / file).read_bytes() for file in (name, weights)}
    record_hashes(model_dir, contents)
    for file, content in contents.items():
        source.serve_bytes(f"/{file}", content)

    runs = [
        upstream_process.submit(calls.run, model_dir, tmp_path, song, tmp_path, model=name).result(60) for _ in range(2)
    ]

    assert source.connections == 2
    assert {path.name for path in model_dir.iterdir()} >= {name, weights, "download_checks.json"}
    assert not list(model_dir.glob(".*"))
    (first, progress), (second, _) = runs
    assert not isinstance(first, Refusal), first
    assert not isinstance(second, Refusal), second
    assert {stem.name for stem in first} == {"drums", "bass", "other", "vocals"}
    assert {stem.frames for stem in first} == {song.frames}
    assert (progress[0], progress[-1]) == (0.0, 1.0)
    assert progress == sorted(progress)
    # Demucs shifts the song at random: without a fixed seed, the stems would differ.
    assert [stem.sha256 for stem in first] == [stem.sha256 for stem in second]


@pytest.mark.parametrize(("status", "why"), [(404, "source not found"), (503, "source unavailable")])
def test_failed_model_download_has_a_clear_error(
    upstream_process: ProcessPoolExecutor, tmp_path: Path, source: SourceServer, status: int, why: str
) -> None:
    source.otherwise(answer(status))
    model_dir = tmp_path / "models"
    tiny_models.list_demucs(model_dir, "tiny.yaml", "tiny.th", source.url(""))
    record_hashes(model_dir, {"tiny.th": b"", "tiny.yaml": b""})

    refusal = upstream_process.submit(calls.load, model_dir, tmp_path, "tiny.yaml").result(60)

    assert isinstance(refusal, Refusal)
    assert (refusal.kind, refusal.code) == (ErrorKind.TRANSIENT, ErrorCode.MODEL_UNAVAILABLE)
    # The client sees this sentence: it must not contain a path or a URL.
    assert refusal.message == (
        f"the model tiny.yaml is not complete in MODEL_FILE_DIR and cannot be downloaded ({why}): put its files there, "
        "let MODEL_NAME name a model that is there, or allow the download"
    )


def test_complete_file_is_not_downloaded_again(
    upstream_process: ProcessPoolExecutor, tmp_path: Path, source: SourceServer
) -> None:
    """The second attempt requests only the files that the first one did not complete."""
    served, model_dir = tmp_path / "served", tmp_path / "models"
    served.mkdir()
    name, weights = upstream_process.submit(tiny_models.write_demucs, served).result(60)
    tiny_models.list_demucs(model_dir, name, weights, source.url(""))
    source.serve_bytes(f"/{weights}", (served / weights).read_bytes())
    content = (served / name).read_bytes()
    record_hashes(model_dir, {name: content, weights: (served / weights).read_bytes()})
    source.add(f"/{name}", sequence(answer(503), answer(200, {}, content)))

    first, second = (upstream_process.submit(calls.load, model_dir, tmp_path, name).result(60) for _ in range(2))

    assert isinstance(first, Refusal)
    assert second == "cpu"
    assert [request.path for request in source.requests] == [f"/{weights}", f"/{name}", f"/{name}"]
