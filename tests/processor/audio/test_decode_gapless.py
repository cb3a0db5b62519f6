"""No format shifts the song or changes its length, where the file tells what its codec has put around it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import av
import numpy as np
import pytest

from tests.processor.source_files import RATE, decoded, lag, noise, write_av, write_pcm

#: No multiple of any codec's frame, s.
SECONDS = 1.3171
FAST_START = {"movflags": "+faststart"}
FRAGMENTS = {"movflags": "frag_keyframe+empty_moov+default_base_moof", "frag_duration": "500000"}
FRAGMENTS_WITH_EDIT = FRAGMENTS | {"movflags": "frag_keyframe+empty_moov+delay_moov+default_base_moof"}


def song(rate: int) -> np.ndarray:
    return noise(SECONDS, rate=rate)


def assert_in_place(source: Path, *, late: int = 0, longer: int = 0) -> None:
    """``late``, ``longer``: samples at 44.1 kHz, of a song that was written at this rate."""
    truth = song(RATE)
    outcome = decoded(source)
    assert lag(truth, outcome.signal) == late
    assert outcome.mixture.frames == truth.shape[1] + longer
    error = outcome.signal[:, late : late + RATE] - truth[:, :RATE]
    assert np.mean(error**2) < 0.1 * np.mean(truth**2)
    assert outcome.mixture.notes == ()


@pytest.mark.parametrize(
    ("codec", "container", "options"),
    [
        ("libmp3lame", "mp3", {}),
        ("libmp3lame", "matroska", {}),
        ("aac", "mp4", {}),
        ("aac", "mp4", FAST_START),
        ("aac", "mp4", FRAGMENTS_WITH_EDIT),
        ("aac", "ipod", {}),
        ("aac", "mov", {}),
        ("alac", "ipod", {}),
        ("flac", "mp4", {}),
        ("flac", "ogg", {}),
        ("pcm_s16le", "mov", {}),
        ("tta", "tta", {}),
        ("wavpack", "wv", {}),
    ],
)
def test_where_the_file_tells_the_song_is_itself_to_the_sample(
    tmp_path: Path, codec: str, container: str, options: Mapping[str, str]
) -> None:
    assert_in_place(write_av(tmp_path / "song", song(RATE), codec, container, options=options))


@pytest.mark.parametrize(("container", "subtype"), [("MP3", "MPEG_LAYER_III"), ("OGG", "VORBIS"), ("FLAC", "PCM_16")])
def test_files_of_other_writers_as_well(tmp_path: Path, container: str, subtype: str) -> None:
    assert_in_place(write_pcm(tmp_path / "song", song(RATE), container=container, subtype=subtype))


@pytest.mark.parametrize(
    ("codec", "container", "options", "late", "longer"),
    [
        # Nothing in these tells of the encoder's delay or of what fills up the last frame: players play both.
        ("aac", "adts", {}, 1024, 1308),
        ("aac", "mpegts", {}, 1024, 1308),
        ("aac", "flv", {}, 1024, 1308),
        ("libmp3lame", "avi", {}, 1105, 1820),
        # These have the duration of the last packet alone.
        ("aac", "mp4", FRAGMENTS, 1024, 1024),
        ("aac", "mp4", {"use_editlist": "0"}, 1024, 1024),
        # And these the delay alone.
        ("aac", "matroska", {}, 0, 284),
        # Packets of MP3 are whole, and the edit's clock has ticks of 1 ms.
        ("libmp3lame", "mp4", {}, 0, -4),
    ],
)
def test_what_a_format_cannot_tell(
    tmp_path: Path, codec: str, container: str, options: Mapping[str, str], late: int, longer: int
) -> None:
    source = write_av(tmp_path / "song", song(RATE), codec, container, options=options)
    assert_in_place(source, late=late, longer=longer)


@pytest.mark.parametrize(
    ("codec", "container", "rate"),
    [
        ("libopus", "ogg", 48_000),
        ("libopus", "webm", 48_000),
        ("libopus", "mp4", 48_000),
        ("libmp3lame", "mp3", 48_000),
        ("libmp3lame", "mp3", 22_050),
        ("aac", "mp4", 48_000),
        ("aac", "mp4", 22_050),
    ],
)
def test_at_other_rates_too(tmp_path: Path, codec: str, container: str, rate: int) -> None:
    """The lag is against the same file at that rate without a codec, resampled alike."""
    coded = decoded(write_av(tmp_path / "coded", song(rate), codec, container, rate=rate))
    plain = decoded(write_pcm(tmp_path / "plain", song(rate), rate=rate, container="WAV", subtype="FLOAT"))
    assert coded.mixture.frames == plain.mixture.frames
    assert lag(plain.signal, coded.signal) == 0


@pytest.mark.parametrize(("layout", "longer"), [("mono", 0), ("5.1", 0), ("7.1", 284)])
def test_the_last_frame_is_cut_with_up_to_seven_channels(tmp_path: Path, layout: str, longer: int) -> None:
    signal = noise(SECONDS, channels=av.AudioLayout(layout).nb_channels)
    outcome = decoded(write_av(tmp_path / "song", signal, "aac", "mp4", layout=layout))
    assert outcome.mixture.frames == signal.shape[1] + longer


@pytest.mark.parametrize(
    ("codec", "container", "rate"), [("libmp3lame", "mp3", RATE), ("aac", "mp4", RATE), ("libopus", "ogg", 48_000)]
)
def test_what_a_codec_makes_of_full_scale_is_not_clipped(tmp_path: Path, codec: str, container: str, rate: int) -> None:
    """It overshoots where the song was at its limits."""
    square = np.sign(noise(1.0, rate=rate, seed=3)).astype(np.float32)
    outcome = decoded(write_av(tmp_path / "song", square, codec, container, rate=rate))
    assert outcome.mixture.peak > 1.1
    assert np.sum(np.abs(outcome.scaled) == 1.0) <= 2
