"""Gapless decoding: declared padding neither delays the song nor changes its length."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import av
import numpy as np
import pytest

from tests.processor.source_files import RATE, decoded, lag, noise, write_av, write_pcm

#: A duration that is not a multiple of any codec's frame, s.
SECONDS = 1.3171
FAST_START = {"movflags": "+faststart"}
FRAGMENTS = {"movflags": "frag_keyframe+empty_moov+default_base_moof", "frag_duration": "500000"}
FRAGMENTS_WITH_EDIT = FRAGMENTS | {"movflags": "frag_keyframe+empty_moov+delay_moov+default_base_moof"}


def song(rate: int) -> np.ndarray:
    return noise(SECONDS, rate=rate)


def assert_in_place(source: Path, *, delay: int = 0, extra: int = 0) -> None:
    """Check ``delay`` and ``extra`` length in samples, for a song written at 44.1 kHz."""
    truth = song(RATE)
    outcome = decoded(source)
    assert lag(truth, outcome.signal) == delay
    assert outcome.mixture.frames == truth.shape[1] + extra
    error = outcome.signal[:, delay : delay + RATE] - truth[:, :RATE]
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
def test_declared_padding_is_removed_to_the_sample(
    tmp_path: Path, codec: str, container: str, options: Mapping[str, str]
) -> None:
    assert_in_place(write_av(tmp_path / "song", song(RATE), codec, container, options=options))


@pytest.mark.parametrize(("container", "subtype"), [("MP3", "MPEG_LAYER_III"), ("OGG", "VORBIS"), ("FLAC", "PCM_16")])
def test_padding_of_files_by_libsndfile_is_removed(tmp_path: Path, container: str, subtype: str) -> None:
    assert_in_place(write_pcm(tmp_path / "song", song(RATE), container=container, subtype=subtype))


@pytest.mark.parametrize(
    ("codec", "container", "options", "delay", "extra"),
    [
        # These declare neither the encoder's delay nor the padding of the last frame; players play both.
        ("aac", "adts", {}, 1024, 1308),
        ("aac", "mpegts", {}, 1024, 1308),
        ("aac", "flv", {}, 1024, 1308),
        ("libmp3lame", "avi", {}, 1105, 1820),
        # These declare the duration of the last packet only.
        ("aac", "mp4", FRAGMENTS, 1024, 1024),
        ("aac", "mp4", {"use_editlist": "0"}, 1024, 1024),
        # These declare the delay only.
        ("aac", "matroska", {}, 0, 284),
        # MP3 packets have full length, and the edit's clock has ticks of 1 ms.
        ("libmp3lame", "mp4", {}, 0, -4),
    ],
)
def test_undeclared_padding_remains(
    tmp_path: Path, codec: str, container: str, options: Mapping[str, str], delay: int, extra: int
) -> None:
    source = write_av(tmp_path / "song", song(RATE), codec, container, options=options)
    assert_in_place(source, delay=delay, extra=extra)


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
def test_padding_is_removed_at_other_sample_rates(tmp_path: Path, codec: str, container: str, rate: int) -> None:
    """The reference is the same signal without a codec, at the same rate and with the same resampler."""
    coded = decoded(write_av(tmp_path / "coded", song(rate), codec, container, rate=rate))
    plain = decoded(write_pcm(tmp_path / "plain", song(rate), rate=rate, container="WAV", subtype="FLOAT"))
    assert coded.mixture.frames == plain.mixture.frames
    assert lag(plain.signal, coded.signal) == 0


@pytest.mark.parametrize("layout", ["mono", "5.1", "7.1"])
def test_last_frame_is_trimmed_with_several_channels(tmp_path: Path, layout: str) -> None:
    signal = noise(SECONDS, channels=av.AudioLayout(layout).nb_channels)
    outcome = decoded(write_av(tmp_path / "song", signal, "aac", "mp4", layout=layout))
    assert outcome.mixture.frames == signal.shape[1]


@pytest.mark.parametrize(
    ("codec", "container", "rate"), [("libmp3lame", "mp3", RATE), ("aac", "mp4", RATE), ("libopus", "ogg", 48_000)]
)
def test_codec_overshoot_is_not_clipped(tmp_path: Path, codec: str, container: str, rate: int) -> None:
    """Lossy codecs overshoot where the song is at full scale."""
    square = np.sign(noise(1.0, rate=rate, seed=3)).astype(np.float32)
    outcome = decoded(write_av(tmp_path / "song", square, codec, container, rate=rate))
    assert outcome.mixture.peak > 1.1
    assert np.sum(np.abs(outcome.scaled) == 1.0) <= 2
