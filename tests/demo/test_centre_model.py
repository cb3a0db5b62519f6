"""Test the demo model, its file and its folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest

from demo.centre_model import DEMO_MODEL_NAME, build_model, write_demo_model
from demo.model_folder import model_hash

REPOSITORY = Path(__file__).resolve().parents[2]
FILES = {DEMO_MODEL_NAME, "download_checks.json", "mdx_model_data.json", "vr_model_data.json"}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def run_model(spectrum: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    session = onnxruntime.InferenceSession(build_model().SerializeToString(), providers=["CPUExecutionProvider"])
    (vocals,) = session.run(None, {"input": spectrum})
    return np.asarray(vocals)


def test_model_is_valid_and_small(tmp_path: Path) -> None:
    path = write_demo_model(tmp_path / "new")
    onnx.checker.check_model(onnx.load(path), full_check=True)
    assert path == tmp_path / "new" / DEMO_MODEL_NAME
    assert path.stat().st_size < 10_000


def test_two_processes_build_the_same_bytes_and_share_a_folder(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "demo.centre_model", str(tmp_path / "shared")]
    writers = [subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE) for _ in range(2)]
    for writer in writers:
        printed, _ = writer.communicate(timeout=60)
        assert writer.returncode == 0
        assert Path(os.fsdecode(printed).strip()) == tmp_path / "shared" / DEMO_MODEL_NAME
    write_demo_model(tmp_path / "here")
    assert contents(tmp_path / "shared") == contents(tmp_path / "here")
    assert contents(tmp_path / "shared").keys() == FILES


def test_lists_contain_the_model_and_its_parameters(tmp_path: Path) -> None:
    path = write_demo_model(tmp_path / "new")
    checks = json.loads((tmp_path / "new" / "download_checks.json").read_text())
    assert DEMO_MODEL_NAME in checks["mdx_download_list"].values()
    parameters = json.loads((tmp_path / "new" / "mdx_model_data.json").read_text())[model_hash(path.read_bytes())]
    assert parameters["primary_stem"] == "Vocals"


def test_second_run_changes_no_file(tmp_path: Path) -> None:
    write_demo_model(tmp_path)
    before = {path: path.stat().st_ino for path in tmp_path.iterdir()}
    write_demo_model(tmp_path)
    assert {path: path.stat().st_ino for path in tmp_path.iterdir()} == before


def test_damaged_model_is_replaced(tmp_path: Path) -> None:
    path = write_demo_model(tmp_path)
    sound = path.read_bytes()
    path.write_bytes(sound[:100])
    write_demo_model(tmp_path)
    assert path.read_bytes() == sound


def test_entries_and_models_of_the_user_are_kept(tmp_path: Path) -> None:
    own = {
        "download_checks.json": {"current_version": "v5", "mdx_download_list": {"Mine": "mine.onnx"}},
        "mdx_model_data.json": {"0" * 32: {"compensate": 1.035}},
        "vr_model_data.json": {"1" * 32: {"primary_stem": "Vocals"}},
    }
    for name, entries in own.items():
        (tmp_path / name).write_text(json.dumps(entries))
    (tmp_path / "mine.onnx").write_bytes(b"weights")

    path = write_demo_model(tmp_path)

    checks, mdx, vr = (json.loads((tmp_path / name).read_text()) for name in own)
    assert checks["current_version"] == "v5"
    assert set(checks["mdx_download_list"].values()) == {"mine.onnx", DEMO_MODEL_NAME}
    assert mdx.keys() == {"0" * 32, model_hash(path.read_bytes())}
    assert mdx["0" * 32] == {"compensate": 1.035}
    assert vr == own["vr_model_data.json"]
    assert (tmp_path / "mine.onnx").read_bytes() == b"weights"


@pytest.mark.parametrize("broken", ["", '{"half": ', "[]"])
def test_invalid_list_is_named_and_not_changed(tmp_path: Path, broken: str) -> None:
    (tmp_path / "mdx_model_data.json").write_text(broken)
    with pytest.raises(ValueError, match=r"mdx_model_data\.json"):
        write_demo_model(tmp_path)
    assert (tmp_path / "mdx_model_data.json").read_text() == broken
    assert not list(tmp_path.glob(".*"))


def test_other_users_can_read_the_files(tmp_path: Path) -> None:
    write_demo_model(tmp_path)
    plain = tmp_path / "plain"
    plain.touch()
    assert {path.stat().st_mode for path in tmp_path.iterdir()} == {plain.stat().st_mode}


def test_hash_covers_the_end_of_a_large_model() -> None:
    tail = bytes(10_240_000)
    assert model_hash(b"head" + tail) == model_hash(tail) != model_hash(b"head" + tail[4:])


def test_silence_stays_silent() -> None:
    assert not np.any(run_model(np.zeros((1, 4, 2048, 256), np.float32)))


def burst(left: float, right: float, bins: slice, *starts: int, frames: int = 6) -> npt.NDArray[np.float32]:
    """Return a spectrum with these levels at `bins` in a few frames from each start, and silence elsewhere."""
    spectrum = np.zeros((1, 4, 2048, 256), np.float32)
    for start in starts:
        spectrum[:, 0, bins, start : start + frames] = left
        spectrum[:, 2, bins, start : start + frames] = right
    return spectrum


def left_over(spectrum: npt.NDArray[np.float32], bins: slice, start: int) -> float:
    """Return the level of the model's output on both channels, at `bins` in the middle of a burst."""
    cells = run_model(spectrum)[0, (0, 2), bins, start + 3]
    assert np.array_equal(cells[0], cells[1])
    return float(np.mean(cells[0]))


VOICE, DRUM, BAND = slice(60, 90), slice(300, 400), slice(500, 600)


def test_centre_is_kept_and_a_side_is_attenuated() -> None:
    assert left_over(burst(10, 10, VOICE, 100), VOICE, 100) > 9.5
    assert left_over(burst(20, 0, VOICE, 100), VOICE, 100) < 5


def test_frequencies_below_a_voice_are_removed() -> None:
    kick = slice(3, 8)  # 32 to 75 Hz
    assert left_over(burst(10, 10, kick, 100), kick, 100) < 0.1


def test_repetitions_of_the_band_are_removed_from_the_centre() -> None:
    drum = burst(10, 10, DRUM, 50) + burst(8, 8, DRUM, 150)
    song = drum + burst(10, -10, BAND, 50, 150) + burst(10, 10, VOICE, 50)
    assert left_over(song, DRUM, 50) < 0.5
    assert left_over(song, VOICE, 50) > 9.5


def test_held_note_does_not_count_as_a_repetition() -> None:
    song = burst(10, -10, BAND, 100, frames=20) + burst(10, 10, VOICE, 100, frames=20)
    assert left_over(song, VOICE, 110) > 9.5


def test_segments_of_a_batch_do_not_mix_and_can_have_any_length() -> None:
    quiet, loud = np.random.default_rng(0).standard_normal((2, 1, 4, 2048, 40)).astype(np.float32)
    loud *= 1000
    together = run_model(np.concatenate([quiet, loud]))
    assert together.shape == (2, 4, 2048, 40)
    np.testing.assert_allclose(together[:1], run_model(quiet), atol=1e-3)
    np.testing.assert_allclose(together[1:], run_model(loud), atol=1)
