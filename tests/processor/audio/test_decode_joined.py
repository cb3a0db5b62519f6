"""Tags, joined files and chains are no damage; damage is measured in seconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from pipeline.errors import ErrorCode
from processor.audio.probe import probe
from tests.processor.corpus.cases import APE, ID3V1, ID3V2
from tests.processor.source_files import RATE, SONG, WRITERS, Signal, decoded, lag, noise, refusal, write_av, write_pcm

# --- tags ---


@pytest.mark.parametrize("tag", [ID3V2, APE, ID3V2 + APE, ID3V2 * 2], ids=["id3v2", "ape", "both", "two"])
@pytest.mark.parametrize("kind", WRITERS)
def test_tag_in_front_changes_nothing(tmp_path: Path, kind: str, tag: bytes) -> None:
    plain = WRITERS[kind](tmp_path / "plain")
    (tmp_path / "tagged").write_bytes(tag + plain.read_bytes())
    assert probe(tmp_path / "tagged", max_seconds=60) == probe(plain, max_seconds=60)
    song = decoded(tmp_path / "tagged")
    np.testing.assert_array_equal(song.scaled, decoded(plain).scaled)
    assert song.mixture.notes == ()


@pytest.mark.parametrize("kind", ["wav", "flac", "m4a for streaming"])
def test_truncated_file_with_a_tag_in_front_is_refused(tmp_path: Path, kind: str) -> None:
    content = WRITERS[kind](tmp_path / "song").read_bytes()
    (tmp_path / "song").write_bytes(ID3V2 + content[: len(content) // 2])
    assert refusal(tmp_path / "song").message.startswith("the source is cut off: ")


def test_tags_between_joined_mp3_files_are_no_damage(tmp_path: Path) -> None:
    part = WRITERS["mp3"](tmp_path / "part").read_bytes()
    picture = ID3V2[:6] + bytes((0, 0, 0x40, 0)) + np.random.default_rng(1).bytes(0x40 << 7)
    (tmp_path / "song").write_bytes(part + ID3V1 + picture + part + ID3V1 + APE + part)
    song = decoded(tmp_path / "song")
    assert song.mixture.notes == ()
    assert abs(song.mixture.duration - 12.0) < 0.2


# --- chains ---


@pytest.mark.parametrize("second", ["stereo", "mono", "opus", "flac"])
def test_chained_ogg_is_decoded_link_by_link(tmp_path: Path, second: str) -> None:
    first = write_pcm(tmp_path / "first", SONG, container="OGG", subtype="VORBIS")
    match second:
        case "opus":
            other = write_av(tmp_path / "other", noise(2.0, rate=48_000), "libopus", "ogg", rate=48_000)
        case "flac":
            other = write_av(tmp_path / "other", noise(2.0), "flac", "ogg")
        case _:
            channels, rate = (1, 48_000) if second == "mono" else (2, RATE)
            signal = noise(2.0, channels=channels, rate=rate)
            other = write_pcm(tmp_path / "other", signal, rate=rate, container="OGG", subtype="VORBIS")
    (tmp_path / "song").write_bytes(first.read_bytes() + other.read_bytes())
    song, start, end = decoded(tmp_path / "song"), decoded(first), decoded(other)
    assert song.mixture.notes == ()
    assert song.mixture.frames == start.mixture.frames + end.mixture.frames
    np.testing.assert_allclose(song.signal[:, : 4 * RATE], start.signal, atol=1e-6)
    assert lag(end.signal, song.signal[:, 4 * RATE :]) == 0


def test_joined_flac_files_are_decoded_one_by_one(tmp_path: Path) -> None:
    first = write_pcm(tmp_path / "first", SONG, container="FLAC")
    other = write_pcm(tmp_path / "other", noise(2.0, channels=1, rate=48_000), rate=48_000, container="FLAC")
    (tmp_path / "song").write_bytes(first.read_bytes() + other.read_bytes() + first.read_bytes())
    song = decoded(tmp_path / "song")
    assert song.mixture.notes == ()
    assert song.mixture.frames == 10 * RATE
    assert lag(SONG, song.signal[:, 6 * RATE :]) == 0


def test_limit_of_length_holds_for_a_chain(tmp_path: Path) -> None:
    content = write_pcm(tmp_path / "part", SONG, container="OGG", subtype="VORBIS").read_bytes()
    (tmp_path / "song").write_bytes(content * 5)
    assert refusal(tmp_path / "song", max_seconds=15).code is ErrorCode.AUDIO_TOO_LONG


# --- damage ---


def large_flac(path: Path) -> Path:
    """Write 30 s of FLAC in blocks of 65,535 samples, 1.5 s each."""
    return write_av(path, noise(30.0), "flac", "flac", codec_options={"frame_size": "65535"})


@pytest.mark.parametrize("places", [1, 2])
def test_damaged_blocks_of_flac_become_silence_in_place(tmp_path: Path, places: int) -> None:
    source = large_flac(tmp_path / "song")
    truth = soundfile.read(source, dtype="float32")[0].T
    zeroed(source, places)
    song = decoded(source)
    assert song.mixture.notes == (f"damaged parts of the source were replaced by silence: {places * 1.486:.1f} s",)
    assert song.mixture.frames == truth.shape[1]
    lost = ~song.scaled.any(axis=0)
    assert np.count_nonzero(lost) == pytest.approx(places * 65_535, abs=places)
    np.testing.assert_allclose(song.signal[:, ~lost], truth[:, ~lost], atol=1e-6)


def test_flac_that_is_damaged_in_many_places_is_refused(tmp_path: Path) -> None:
    error = refusal(zeroed(large_flac(tmp_path / "song"), 18))
    assert error.code is ErrorCode.AUDIO_CORRUPT
    assert error.message.startswith("the source's audio is corrupt: ")


def zeroed(source: Path, places: int) -> Path:
    """Overwrite 64 bytes by zeros at evenly distributed places."""
    content = bytearray(source.read_bytes())
    for number in range(places):
        start = len(content) * (number + 1) // (places + 1)
        content[start : start + 64] = bytes(64)
    source.write_bytes(content)
    return source


@pytest.mark.parametrize("kind", ["flac", "ogg flac", "matroska flac", "wavpack", "ac3"])
def test_one_changed_bit_is_noticed_by_the_checksum(tmp_path: Path, kind: str) -> None:
    codec = {"wavpack": "wavpack", "ac3": "ac3"}.get(kind, "flac")
    container = {"wavpack": "wv", "ac3": "ac3", "flac": "flac"}.get(kind, kind.split()[0])
    source = write_av(tmp_path / "song", noise(12.0), codec, container)
    plain = decoded(source)
    content = bytearray(source.read_bytes())
    content[len(content) // 2] ^= 4
    (tmp_path / "bit").write_bytes(content)
    song = decoded(tmp_path / "bit")
    assert song.mixture.notes[0].startswith("damaged parts of the source were replaced by silence: ")
    assert song.mixture.frames == plain.mixture.frames
    sound = song.signal.any(axis=0)
    # The codec overlaps its frames, but there is no burst.
    assert np.max(np.abs(song.signal[:, sound] - plain.signal[:, sound])) < (0.6 if codec == "ac3" else 1e-6)


def test_long_clean_flac_has_no_false_frames(tmp_path: Path) -> None:
    """Compressed sound has, by chance, bytes that look like the header of a frame with a valid checksum."""
    rng = np.random.default_rng(3)
    loud = (rng.uniform(-1, 1, (2, 100 * RATE))).astype(np.float32)
    assert decoded(write_pcm(tmp_path / "song", loud, container="FLAC"), max_seconds=120).mixture.notes == ()


@pytest.mark.parametrize("share", [0.001, 0.5, 0.99])
def test_wav_that_declares_less_than_it_has_is_complete(tmp_path: Path, share: float) -> None:
    source = write_pcm(tmp_path / "song.wav", SONG)
    content = bytearray(source.read_bytes())
    content[40:44] = (int(4 * RATE * share) * 4).to_bytes(4, "little")
    source.write_bytes(content)
    assert decoded(source).mixture.frames == 4 * RATE


# --- channels ---


@pytest.mark.parametrize("channels", range(3, 17))
def test_every_channel_without_a_mask_is_in_the_down_mix(tmp_path: Path, channels: int) -> None:
    """Each channel sounds alone in turn."""
    signal: Signal = np.zeros((channels, 1000 * channels), np.float32)
    for channel in range(channels):
        signal[channel, 1000 * channel : 1000 * (channel + 1)] = 0.5
    song = decoded(write_pcm(tmp_path / "song.wav", signal))
    levels = np.abs(song.signal).max(axis=0).reshape(channels, 1000)[:, 500]
    assert (levels > 0.3).all()


def test_more_channels_are_refused(tmp_path: Path) -> None:
    error = refusal(write_pcm(tmp_path / "song.wav", noise(0.1, channels=17)))
    assert (error.code, error.message) == (ErrorCode.NOT_AUDIO, "the source has 17 channels")
