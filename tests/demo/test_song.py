"""Test that the song is repeatable, that its stems are exact, and that a separation can be shown with it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import soundfile

from demo.sdr import sdr_db
from demo.song import PEAK, VOICE_TO_BAND_DB, Song, render_song, write_song


@pytest.fixture(scope="module")
def song() -> Song:
    return render_song(seconds=8)


def energy(audio: npt.NDArray[np.float32]) -> float:
    return float(np.sum(audio.astype(np.float64) ** 2))


def side_share(audio: npt.NDArray[np.float32]) -> float:
    """Return the share of the energy that mono playback would lose."""
    return energy((audio[0] - audio[1]) / np.sqrt(np.float32(2))) / energy(audio)


def test_stems_are_float32_stereo_of_the_requested_length() -> None:
    song = render_song(seconds=1.5)
    for audio in (song.vocals, song.instrumental, song.mixture):
        assert audio.shape == (2, round(1.5 * song.sample_rate))
        assert audio.dtype == np.float32


def test_default_song_lasts_24_seconds() -> None:
    song = render_song()
    assert song.mixture.shape == (2, 24 * song.sample_rate)


def test_mixture_is_the_sum_of_the_stems_with_headroom(song: Song) -> None:
    assert np.array_equal(song.mixture, song.vocals + song.instrumental)
    assert np.max(np.abs(song.mixture)) == pytest.approx(PEAK, abs=1e-6)
    assert max(np.max(np.abs(song.vocals)), np.max(np.abs(song.instrumental))) < 1


def test_seed_determines_the_song(song: Song) -> None:
    again, other = render_song(seconds=8), render_song(seed=1, seconds=8)
    assert np.array_equal(again.vocals, song.vocals)
    assert np.array_equal(again.instrumental, song.instrumental)
    assert sdr_db(song.vocals, other.vocals) < 1


def test_mixture_alone_has_the_documented_sdr(song: Song) -> None:
    assert sdr_db(song.vocals, song.mixture) == pytest.approx(VOICE_TO_BAND_DB, abs=0.01)


def test_voice_is_central_and_the_band_is_wide(song: Song) -> None:
    assert side_share(song.vocals) < 0.05
    assert side_share(song.instrumental) > 0.1
    assert side_share(render_song(seconds=8, voice_pan=0.5).vocals) > 0.1


def test_voice_pauses_while_the_band_plays(song: Song) -> None:
    def tenths(audio: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        seconds = audio[:, : 7 * song.sample_rate].astype(np.float64)  # without the fade at the end
        rms: npt.NDArray[np.float64] = np.sqrt(np.mean(seconds.reshape(2, 70, -1) ** 2, axis=(0, 2)))
        return rms

    voice, band = tenths(song.vocals), tenths(song.instrumental)
    assert np.count_nonzero(voice < 0.05 * voice.max()) >= 3
    assert np.all(band > 0.05 * band.max())


def test_band_without_loop_plays_other_notes(song: Song) -> None:
    other = render_song(seconds=8, looping=False)
    assert sdr_db(song.instrumental, other.instrumental) < 3


def test_song_shorter_than_a_second_is_rejected() -> None:
    with pytest.raises(ValueError, match="one second"):
        render_song(seconds=0.9)


def test_files_hold_the_mixture_and_its_stems_in_16_bit(song: Song, tmp_path: Path) -> None:
    files = write_song(song, tmp_path / "song")
    read = {}
    for name, audio in (("mixture", song.mixture), ("vocals", song.vocals), ("instrumental", song.instrumental)):
        path = getattr(files, name)
        assert soundfile.info(path).subtype == "PCM_16"
        read[name], rate = soundfile.read(path, dtype="float64")
        assert rate == song.sample_rate
        assert np.max(np.abs(read[name].T - audio)) <= 1 / 32768
    assert files.mixture.suffix == ".flac"
    assert np.max(np.abs(read["mixture"] - read["vocals"] - read["instrumental"])) <= 3 / 32768
