"""Sources that are not audio, empty or too long are refused with the right code and one sentence."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import av
import numpy as np
import pytest

from pipeline.cancellation import CancelToken
from pipeline.errors import ErrorCode, PermanentError
from processor.audio.decode import decode
from tests.processor.source_files import (
    RATE,
    SONG,
    WRITERS,
    Signal,
    decoded,
    noise,
    refusal,
    write_av,
    write_pcm,
    write_video,
)

# --- not audio ---


@pytest.mark.parametrize(
    "content",
    [
        b"<!DOCTYPE html><html><head><title>Sign in</title></head><body>" + b"<p>hello</p>" * 5000,
        json.dumps({"error": "not found"}).encode(),
        b"\x89PNG\r\n\x1a\n" + bytes(20_000),
        b"%PDF-1.7\n" + b"0 0 obj\n" * 5000,
        b"RIFF\x24\x00\x00\x00WAVE",
        b"ID3\x04\x00\x00\x00\x00\x00\x00",
        b"x",
        bytes(100_000),
    ],
)
def test_files_of_other_kinds_are_not_audio(tmp_path: Path, content: bytes) -> None:
    source = tmp_path / "source"
    source.write_bytes(content)
    error = refusal(source)
    assert (error.code, error.message) == (
        ErrorCode.NOT_AUDIO,
        "the source is not an audio file that can be read",
    )


@pytest.mark.parametrize("seed", range(10))
def test_random_bytes_are_refused(tmp_path: Path, seed: int) -> None:
    """They may resemble the start of some format, but never decode to a song."""
    source = tmp_path / "source"
    source.write_bytes(np.random.default_rng(seed).bytes(200_000))
    assert refusal(source).code in (ErrorCode.NOT_AUDIO, ErrorCode.AUDIO_CORRUPT)


def test_archive_is_not_audio(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "source", "w") as archive:
        archive.write(write_pcm(tmp_path / "song.wav", noise(1.0)), "song.wav")
    assert refusal(tmp_path / "source").code is ErrorCode.NOT_AUDIO


def test_video_without_audio_is_refused(tmp_path: Path) -> None:
    error = refusal(write_video(tmp_path / "film.mp4", 1.0))
    assert (error.code, error.message) == (
        ErrorCode.AUDIO_MISSING,
        "the source is a video without an audio track: give the address of one that has sound",
    )


@pytest.mark.parametrize(
    ("position", "value", "sentence"),
    [
        (20, (0x9999).to_bytes(2, "little"), "the source's audio is of a kind that cannot be decoded"),
        # A few kilobytes at 10 Hz would become hundreds of megabytes, all in one block.
        (24, (10).to_bytes(4, "little"), "the source has a sample rate of 10 Hz"),
        (22, (64).to_bytes(2, "little") + RATE.to_bytes(4, "little"), "the source has 64 channels"),
    ],
)
def test_wav_with_unsupported_format_is_refused(tmp_path: Path, position: int, value: bytes, sentence: str) -> None:
    source = write_pcm(tmp_path / "song.wav", noise(0.1))
    content = bytearray(source.read_bytes())
    content[position : position + len(value)] = value
    if position == 22:
        content[32:34] = (64 * 2).to_bytes(2, "little")
    source.write_bytes(content)
    error = refusal(source, max_seconds=3600)
    assert (error.code, error.message) == (ErrorCode.NOT_AUDIO, sentence)


def test_codec_that_is_not_in_the_allowlist_is_refused(tmp_path: Path) -> None:
    """FFmpeg has a decoder for it."""
    error = refusal(write_av(tmp_path / "song", noise(0.5), "dfpwm", "wav"))
    assert (error.code, error.message) == (
        ErrorCode.NOT_AUDIO,
        "the source's audio is of a kind that cannot be decoded",
    )


# --- empty ---


@pytest.mark.parametrize("signal", [np.zeros((2, 0), np.float32), np.zeros((1, 0), np.float32)])
@pytest.mark.parametrize("container", ["WAV", "FLAC", "AIFF"])
def test_source_without_frames_is_empty(tmp_path: Path, signal: Signal, container: str) -> None:
    error = refusal(write_pcm(tmp_path / "song", signal, container=container))
    assert error.code in (ErrorCode.AUDIO_EMPTY, ErrorCode.NOT_AUDIO)


def test_zero_byte_file_is_empty(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.touch()
    error = refusal(source)
    assert (error.code, error.message) == (ErrorCode.AUDIO_EMPTY, "the source has no audio in it")


def test_one_sample_at_another_rate_is_a_song(tmp_path: Path) -> None:
    assert decoded(write_pcm(tmp_path / "song.wav", noise(0.1)[:, :1], rate=48_000)).mixture.frames == 1


# --- too long ---


def with_flac_frames(source: Path, frames: int) -> Path:
    """Set the number of frames in STREAMINFO: the last 36 bits before the checksum, RFC 9639, 8.2."""
    content = bytearray(source.read_bytes())
    field = int.from_bytes(content[18:26], "big")
    content[18:26] = (field >> 36 << 36 | frames).to_bytes(8, "big")
    source.write_bytes(content)
    return source


def test_song_of_exactly_the_limit_is_accepted(tmp_path: Path) -> None:
    assert decoded(WRITERS["flac"](tmp_path / "song"), max_seconds=4.0).mixture.frames == 4 * RATE


@pytest.mark.parametrize("kind", WRITERS)
def test_song_beyond_the_limit_is_too_long(tmp_path: Path, kind: str) -> None:
    error = refusal(WRITERS[kind](tmp_path / "song"), max_seconds=3.5)
    assert (error.code, error.message) == (ErrorCode.AUDIO_TOO_LONG, "the audio is longer than 3.5 s")


def test_too_long_declared_length_is_refused_before_decoding(tmp_path: Path) -> None:
    source = with_flac_frames(WRITERS["flac"](tmp_path / "song"), 2**36 - 1)
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(PermanentError) as caught:
        decode(source, folder, max_seconds=60, cancel=CancelToken())
    assert caught.value.code is ErrorCode.AUDIO_TOO_LONG
    assert sum(path.stat().st_size for path in folder.iterdir()) < 10_000


@pytest.mark.parametrize("declared", [0, RATE])
def test_too_short_declared_length_does_not_bypass_the_limit(tmp_path: Path, declared: int) -> None:
    source = with_flac_frames(WRITERS["flac"](tmp_path / "song"), declared)
    assert refusal(source, max_seconds=3.5).code is ErrorCode.AUDIO_TOO_LONG


def test_estimated_length_is_not_used(tmp_path: Path) -> None:
    """The container's estimate uses the first bit rate, which is the lowest if the song begins softly."""
    source = tmp_path / "song.mp3"
    soft = write_av(tmp_path / "soft", SONG, "libmp3lame", "mp3", bit_rate=32_000, options={"write_xing": "0"})
    loud = write_av(tmp_path / "loud", SONG, "libmp3lame", "mp3", bit_rate=320_000, options={"write_xing": "0"})
    source.write_bytes(soft.read_bytes() + loud.read_bytes())
    with av.open(str(source)) as container:
        assert container.duration is not None
        assert container.duration / av.time_base > 20
    assert abs(decoded(source, max_seconds=10).mixture.duration - 8.0) < 0.2
