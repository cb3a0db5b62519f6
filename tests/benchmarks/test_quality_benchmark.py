"""The harness of `make bench-quality`: songs, scores, report, and a run."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from benchmarks.quality.bells import ring
from benchmarks.quality.folders import read_songs, songs_in
from benchmarks.quality.report import BEGIN, END, quality_page
from benchmarks.quality.results import MIXTURE, Result, Scores
from benchmarks.quality.songs import INSTRUMENTAL, STYLES, VOCALS, Piece, pieces, with_instrumental
from demo.sound import SAMPLE_RATE
from processor.audio.wav import Samples

ROOT = Path(__file__).parents[2]
SECONDS = 2.0


@pytest.fixture(scope="module")
def songs() -> dict[str, Piece]:
    """A song of each style, by the name of the style."""
    return dict(zip((style.name for style in STYLES), pieces(STYLES, [1], SECONDS), strict=True))


def test_stems_of_every_style_sum_to_the_mixture_unless_clipped(songs: dict[str, Piece]) -> None:
    for name, song in songs.items():
        total = song.stems[VOCALS] + song.stems[INSTRUMENTAL]
        assert song.mixture.dtype == song.stems[VOCALS].dtype == np.float32
        assert song.mixture.shape == (SECONDS * SAMPLE_RATE, 2)
        assert np.allclose(song.mixture, np.clip(total, -1, 1), atol=1e-6)
        assert (np.abs(total).max() > 1.9) == (name == "clipped")


def test_styles_match_their_names(songs: dict[str, Piece]) -> None:
    peaks = {name: np.abs(songs[name].mixture).max() for name in ("demo", "full", "half", "quiet", "clipped")}
    assert peaks == pytest.approx({"demo": 0.9, "full": 1.0, "half": 0.5, "quiet": 0.05, "clipped": 1.0}, rel=1e-5)
    assert not songs["acappella"].stems[INSTRUMENTAL].any()
    assert not songs["instrumental"].stems[VOCALS].any()
    assert np.ptp(songs["mono"].stems[INSTRUMENTAL], axis=1).max() == 0
    assert _in_the_centre(songs["demo"].stems[VOCALS]) > 0.9
    assert _in_the_centre(songs["doubled"].stems[VOCALS]) < 0.6


def _in_the_centre(stem: Samples) -> float:
    """Return the share of the energy that is common to both channels."""
    return float(np.sum(stem.mean(axis=1) ** 2) / np.mean(np.sum(stem**2, axis=0)))


def test_seeds_determine_songs() -> None:
    styles = [style for style in STYLES if style.name in ("demo", "ringing")]
    for first, second, again in zip(*(pieces(styles, [seed], SECONDS) for seed in (1, 2, 1)), strict=True):
        assert np.array_equal(first.mixture, again.mixture)
        assert not np.array_equal(first.mixture, second.mixture)


def test_seeds_determine_bells() -> None:
    first, second, again = (ring(seed, SAMPLE_RATE) for seed in (1, 2, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, second)


def test_instrumental_is_the_sum_of_the_other_stems() -> None:
    voice, drums, bass = (np.full((4, 2), value, np.float32) for value in (1, 2, 3))
    stems = with_instrumental({VOCALS: voice, "drums": drums, "bass": bass})
    assert np.array_equal(stems[INSTRUMENTAL], drums + bass)
    assert with_instrumental({VOCALS: voice}).keys() == {VOCALS}
    assert with_instrumental({"drums": drums, "bass": bass}).keys() == {"drums", "bass"}
    own = with_instrumental({VOCALS: voice, INSTRUMENTAL: bass, "drums": drums})
    assert own[INSTRUMENTAL] is bass


def test_own_songs_are_read(tmp_path: Path) -> None:
    for name in ("b", "a"):
        _write_song(tmp_path / name, {"mixture": 2, "vocals": 1, "Lead Guitar": 2})
    (tmp_path / "notes").mkdir()
    first, second = read_songs(songs_in(tmp_path))
    assert (first.title, second.title) == ("a", "b")
    assert {name: stem.shape for name, stem in first.stems.items()} == {"vocals": (100, 2), "lead_guitar": (100, 2)}
    assert np.array_equal(first.stems["vocals"][:, 0], first.stems["vocals"][:, 1])


def test_inconsistent_songs_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no folder"):
        songs_in(tmp_path)
    _write_song(tmp_path / "short", {"mixture": 2, "vocals": 2})
    soundfile.write(tmp_path / "short" / "vocals.wav", np.zeros((99, 2)), SAMPLE_RATE)
    with pytest.raises(ValueError, match="vocals missing, or not as long"):
        list(read_songs([tmp_path / "short"]))
    _write_song(tmp_path / "bare", {"mixture": 2})
    with pytest.raises(ValueError, match="stems missing"):
        list(read_songs([tmp_path / "bare"]))
    _write_song(tmp_path / "slow", {"mixture": 2, "vocals": 2}, rate=22_050)
    with pytest.raises(ValueError, match="44100 Hz"):
        list(read_songs([tmp_path / "slow"]))


def _write_song(folder: Path, channels: dict[str, int], rate: int = SAMPLE_RATE) -> None:
    folder.mkdir()
    for number, (name, count) in enumerate(channels.items()):
        noise = np.random.default_rng(number).uniform(-0.5, 0.5, (100, count))
        soundfile.write(folder / f"{name}.wav", noise, rate)


def _results() -> list[Result]:
    return [
        Result("loud", VOCALS, MIXTURE, Scores(-2.0, -2.1, -2.2)),
        *(Result("loud", VOCALS, "engine", Scores(sdr, 6.0, 9.0)) for sdr in (7.0, 5.0, 8.0)),
        Result("loud", VOCALS, "upstream", Scores(4.0, 6.0, None)),
        *(Result("alone", VOCALS, "engine", Scores(leak=leak)) for leak in (-20.0, -10.0, -30.0)),
    ]


def test_report_has_medians_and_the_worst() -> None:
    text = quality_page([("a.onnx", _results())], quick=False)
    assert "### `a.onnx`" in text
    assert "Vocals, dB:" in text
    assert "| loud | -2.0 | 7.0 (5.0) | 4.0 | -2.1 | 6.0 (6.0) | 6.0 | -2.2 | 9.0 (9.0) |  |" in text
    assert "| alone: vocals | -20.0 (-10.0) |  |" in text
    assert "all songs" not in text
    assert "quick run" not in text
    assert "**A quick run" in quality_page([("a.onnx", _results())], quick=True)


def test_single_songs_are_summarised() -> None:
    single = [Result(str(sdr), VOCALS, "engine", Scores(sdr, sdr, sdr)) for sdr in (3.0, 5.0, 10.0)]
    assert "| *all songs* |  | 5.0 (3.0) |" in quality_page([("a.onnx", single)], quick=False)


def test_page_in_the_repository_has_the_markers() -> None:
    page = (ROOT / "docs" / "BENCHMARKS.md").read_text()
    assert page.count(BEGIN) == page.count(END) == 1


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_level_of_a_song_affects_upstream_but_not_this_engine(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\n{END}\nafter\n")
    command = (sys.executable, "-m", "benchmarks.quality", "--quick", "--styles", "demo", "quiet", "--write", str(page))
    subprocess.run(command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=True, timeout=280)
    lines = [line.split(" | ") for line in page.read_text().splitlines() if line.startswith("| ")]
    sdr = {
        line[0]: [float(cell) for cell in line[1:4]] for line in lines if "peak 0.05" in line[0] or "loops" in line[0]
    }
    ((mixture, ours, upstream), (quiet_mixture, quiet_ours, quiet_upstream)) = sdr.values()
    assert ours > mixture + 5
    assert (quiet_mixture, quiet_ours) == pytest.approx((mixture, ours), abs=0.1)
    assert quiet_upstream < upstream - 1
    assert math.isfinite(upstream)
