"""Truncated and corrupt sources are refused; small damage is skipped, with a note."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import ErrorCode
from tests.processor.source_files import RATE, SONG, WRITERS, decoded, lag, noise, refusal, write_av, write_pcm


def overwritten(source: Path, start: float, count: int) -> Path:
    """Replace ``count`` bytes by noise, beginning at the fraction ``start`` of the file."""
    content = bytearray(source.read_bytes())
    position = int(len(content) * start)
    content[position : position + count] = np.random.default_rng(1).bytes(count)
    source.write_bytes(content)
    return source


def cut(source: Path, share: float = 0.5) -> Path:
    content = source.read_bytes()
    source.write_bytes(content[: int(len(content) * share)])
    return source


# Fragmented MP4 is written while recording, and does not declare the number of its fragments.
@pytest.mark.parametrize("kind", sorted(WRITERS.keys() - {"mp4 in fragments"}))
def test_truncated_file_is_refused(tmp_path: Path, kind: str) -> None:
    error = refusal(cut(WRITERS[kind](tmp_path / "song")))
    assert error.code is ErrorCode.AUDIO_CORRUPT
    assert error.message.startswith("the source is cut off: ")


#: Further containers whose header declares the length, and the codecs that the tests use in them.
MEASURED = {"w64": "pcm_s16le", "au": "pcm_s16be", "caf": "pcm_s16be", "asf": "pcm_s16le", "avi": "mp2", "tta": "tta"}


@pytest.mark.parametrize(("container", "pictures"), [*((name, 0.0) for name in MEASURED), ("asf", 4.0), ("avi", 4.0)])
def test_truncated_file_of_further_containers_is_refused(tmp_path: Path, container: str, pictures: float) -> None:
    source = write_av(tmp_path / "song", SONG, MEASURED[container], container, video_seconds=pictures)
    assert abs(decoded(source).mixture.duration - 4.0) < 0.1
    error = refusal(cut(source.rename(tmp_path / "cut")))
    assert error.code is ErrorCode.AUDIO_CORRUPT
    assert error.message.startswith("the source is cut off: ")


@pytest.mark.parametrize("kind", ["opus", "vorbis", "mp4 in fragments"])
def test_truncated_file_without_a_declared_length_is_accepted_with_a_note(tmp_path: Path, kind: str) -> None:
    """The recording may have ended there, or an upload may have been interrupted."""
    source = tmp_path / "song"
    match kind:
        case "opus":
            write_av(source, noise(4.0, rate=48_000), "libopus", "ogg", rate=48_000)
        case "vorbis":
            write_pcm(source, SONG, container="OGG", subtype="VORBIS")
        case _:
            WRITERS[kind](source)
    assert decoded(source).mixture.notes == ()
    outcome = decoded(cut(source.rename(tmp_path / "cut"), 0.7))
    assert outcome.mixture.notes[-1] == "the source does not end as its format requires: it may be cut off"
    assert 1.0 < outcome.mixture.duration < 3.5


@pytest.mark.parametrize("kind", ["wav", "aiff", "flac", "mp3", "m4a for streaming", "webm"])
def test_file_without_its_last_tenth_of_a_second_is_accepted(tmp_path: Path, kind: str) -> None:
    song = decoded(cut(WRITERS[kind](tmp_path / "song"), 0.97))
    assert 3.7 < song.mixture.duration < 4.0


@pytest.mark.parametrize("kind", WRITERS)
def test_complete_file_has_no_notes(tmp_path: Path, kind: str) -> None:
    song = decoded(WRITERS[kind](tmp_path / "song"))
    assert song.mixture.notes == ()
    assert abs(song.mixture.duration - 4.0) < 0.05


def test_truncation_error_has_declared_and_actual_length(tmp_path: Path) -> None:
    assert refusal(cut(WRITERS["flac"](tmp_path / "song"), 0.25)).message.startswith(
        "the source is cut off: its header declares 4.0 s, but it ends after 1.0 s"
    )


def test_truncated_video_is_refused(tmp_path: Path) -> None:
    source = write_av(tmp_path / "film", SONG, "aac", "matroska", video_seconds=8.0)
    assert refusal(cut(source, 0.4)).message.startswith("the source is cut off: its header declares 4.0 s, ")


# --- damaged ---


def test_damaged_middle_of_an_mp3_becomes_silence_with_a_note(tmp_path: Path) -> None:
    song = decoded(overwritten(WRITERS["mp3"](tmp_path / "song"), 0.5, 2000))
    assert [note.rpartition(": ")[0] for note in song.mixture.notes] == [
        "damaged parts of the source were replaced by silence"
    ]
    assert abs(song.mixture.duration - 4.0) < 0.03


@pytest.mark.parametrize(
    ("codec", "container"), [("aac", "adts"), ("ac3", "ac3"), ("eac3", "eac3"), ("libmp3lame", "mp3")]
)
def test_sound_after_damage_keeps_its_place(tmp_path: Path, codec: str, container: str) -> None:
    source = write_av(
        tmp_path / "song", SONG, codec, container, options={"write_xing": "0"} if codec[3:] == "mp3" else {}
    )
    plain, song = decoded(source), decoded(overwritten(source.rename(tmp_path / "damaged"), 0.5, 3000))
    assert [note.rpartition(": ")[0] for note in song.mixture.notes] == [
        "damaged parts of the source were replaced by silence"
    ]
    assert abs(lag(plain.signal[:, 3 * RATE :], song.signal[:, 3 * RATE :])) <= 1152


def test_parts_dropped_by_the_demuxer_become_silence(tmp_path: Path) -> None:
    """The Ogg demuxer drops a page with a wrong checksum silently, here one second; the file is not truncated."""
    source = write_av(tmp_path / "song", noise(10.0, rate=48_000), "libopus", "ogg", rate=48_000)
    song = decoded(overwritten(source, 0.5, 10))
    assert song.mixture.notes == (
        "damaged parts of the source were replaced by silence: 1.0 s",
        "checksums of the source are wrong: 1; what they belong to may be damaged",
    )
    assert song.mixture.frames == 10 * RATE


def test_too_many_damaged_packets_are_corrupt(tmp_path: Path) -> None:
    error = refusal(overwritten(WRITERS["m4a for streaming"](tmp_path / "song"), 0.2, 30_000))
    assert error.code is ErrorCode.AUDIO_CORRUPT
    assert error.message.startswith("the source's audio is corrupt: ")


@pytest.mark.parametrize(("codec", "container"), [("wavpack", "wv"), ("tta", "tta"), ("flac", "flac")])
def test_source_whose_only_frame_is_damaged_is_corrupt_and_not_empty(
    tmp_path: Path, codec: str, container: str
) -> None:
    source = write_av(tmp_path / "song", noise(0.05), codec, container)
    assert refusal(overwritten(source, 0.8, 100)).code is ErrorCode.AUDIO_CORRUPT


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("position", [0, 100_000, -1])
def test_non_finite_samples_are_corrupt(tmp_path: Path, bad: float, position: int) -> None:
    signal = SONG.copy()
    signal[1, position] = bad
    error = refusal(write_pcm(tmp_path / "song.wav", signal, subtype="FLOAT"))
    assert (error.code, error.message) == (
        ErrorCode.AUDIO_CORRUPT,
        "the source has samples that are not finite numbers",
    )


def test_samples_beyond_single_precision_are_corrupt(tmp_path: Path) -> None:
    source = write_pcm(tmp_path / "song.wav", SONG.astype(np.float64) * 1e300, subtype="DOUBLE")  # type: ignore[arg-type]
    assert refusal(source).code is ErrorCode.AUDIO_CORRUPT
