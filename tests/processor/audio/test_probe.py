"""Probing: the declared format, refusals before decoding, and hints."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from pipeline.errors import ErrorCode, InfrastructureError, PermanentError
from processor.audio.probe import Hints, probe
from processor.audio.track import SampleFormat
from tests.processor.audio.test_decode_refusals import with_flac_frames
from tests.processor.source_files import SONG, WRITERS, noise, write_av, write_pcm, write_video

AUDIO_TYPE = "audio/mpeg"


def refused(source: Path, max_seconds: float = 60) -> PermanentError:
    """Return the error of a source whose hints claim that it is audio."""
    with pytest.raises(PermanentError) as caught:
        probe(source, max_seconds=max_seconds, hints=Hints(AUDIO_TYPE, "mp3"))
    assert str(source.parent) not in caught.value.message
    return caught.value


# --- audio ---

FORMS = {
    "wav": ("wav", "pcm_s16le", 4.0, 16),
    "wav with fact": ("wav", "pcm_s24le", 4.0, 24),
    "rf64": ("wav", "pcm_s16le", 4.0, 16),
    "aiff": ("aiff", "pcm_s16be", 4.0, 16),
    "flac": ("flac", "flac", 4.0, 16),
    "mp3": ("mp3", "mp3float", None, None),
    "m4a": ("mov", "aac", 4.0, None),
    "m4a for streaming": ("mov", "aac", 4.0, None),
}


@pytest.mark.parametrize("kind", FORMS)
def test_declared_format_is_returned(tmp_path: Path, kind: str) -> None:
    form = probe(WRITERS[kind](tmp_path / "song"), max_seconds=60)
    container, codec, seconds, bit_depth = FORMS[kind]
    assert (form.seconds is None) == (seconds is None)
    assert form.seconds == pytest.approx(seconds, abs=0.05)
    assert form == SampleFormat(container, codec, 2, 44_100, form.seconds, bit_depth)


@pytest.mark.parametrize("container", ["mp4", "matroska", "mpegts", "avi"])
def test_video_with_audio_is_accepted(tmp_path: Path, container: str) -> None:
    codec = "mp2" if container == "avi" else "aac"
    form = probe(write_av(tmp_path / "film", noise(0.5), codec, container, video_seconds=0.4), max_seconds=60)
    assert (form.channels, form.sample_rate) == (2, 44_100)


def test_format_is_logged(tmp_path: Path) -> None:
    with capture_logs() as lines:
        probe(WRITERS["flac"](tmp_path / "song"), max_seconds=60)
    assert lines == [
        {
            "event": "probed",
            "log_level": "info",
            "container": "flac",
            "codec": "flac",
            "channels": 2,
            "sample_rate": 44_100,
            "seconds": 4.0,
        }
    ]


# --- not audio ---


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"<!DOCTYPE html><html><body>Please sign in</body></html>", ErrorCode.SOURCE_IS_WEB_PAGE),
        (json.dumps({"error": "not found"}).encode(), ErrorCode.SOURCE_IS_TEXT),
        (b"#EXTM3U\nhttp://127.0.0.1/song.mp3\n", ErrorCode.SOURCE_IS_PLAYLIST),
        (b"%PDF-1.7\n" + b"0 0 obj\n" * 5000, ErrorCode.SOURCE_IS_DOCUMENT),
        (b"\x89PNG\r\n\x1a\n" + bytes(20_000), ErrorCode.SOURCE_IS_IMAGE),
        (b"\x01\x02" * 5000, ErrorCode.NOT_AUDIO),
        (b"", ErrorCode.AUDIO_EMPTY),
    ],
)
def test_files_of_other_kinds_are_refused_with_their_code(tmp_path: Path, content: bytes, code: ErrorCode) -> None:
    source = tmp_path / "source"
    source.write_bytes(content)
    assert refused(source).code is code


def test_archive_of_songs_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "source", "w") as archive:
        archive.write(write_pcm(tmp_path / "song.wav", noise(0.2)), "song.wav")
    assert refused(tmp_path / "source").message == (
        "the source is an archive (ZIP), not audio: unpack it, and give the address of the audio file in it"
    )


def test_video_without_audio_is_refused(tmp_path: Path) -> None:
    error = refused(write_video(tmp_path / "film.mp4", 0.2))
    assert (error.code, error.message) == (
        ErrorCode.AUDIO_MISSING,
        "the source is a video without an audio track: give the address of one that has sound",
    )


def test_missing_file_is_an_infrastructure_error(tmp_path: Path) -> None:
    with pytest.raises(InfrastructureError):
        probe(tmp_path / "source", max_seconds=60)


# --- length and format ---


@pytest.mark.parametrize("kind", ["wav", "flac", "m4a", "webm"])
def test_too_long_declared_length_is_refused(tmp_path: Path, kind: str) -> None:
    error = refused(WRITERS[kind](tmp_path / "song"), max_seconds=3.5)
    assert (error.code, error.message) == (ErrorCode.AUDIO_TOO_LONG, "the audio is longer than 3.5 s")


def test_estimated_length_is_left_to_the_decoder(tmp_path: Path) -> None:
    source = write_av(tmp_path / "song", SONG, "libmp3lame", "mp3", options={"write_xing": "0"})
    assert probe(source, max_seconds=3.5).seconds is None


def test_too_short_declared_length_is_left_to_the_decoder(tmp_path: Path) -> None:
    """See ``test_too_short_declared_length_does_not_bypass_the_limit``."""
    source = with_flac_frames(WRITERS["flac"](tmp_path / "song"), 44_100)
    assert probe(source, max_seconds=3.5).seconds == 1.0


@pytest.mark.parametrize(
    ("place", "value", "sentence"),
    [
        (24, (10).to_bytes(4, "little"), "the source has a sample rate of 10 Hz"),
        (22, (64).to_bytes(2, "little"), "the source has 64 channels"),
    ],
)
def test_unsupported_format_is_refused_by_the_header(tmp_path: Path, place: int, value: bytes, sentence: str) -> None:
    content = bytearray(write_pcm(tmp_path / "song.wav", noise(0.1)).read_bytes())
    content[place : place + len(value)] = value
    (tmp_path / "song.wav").write_bytes(content)
    error = refused(tmp_path / "song.wav")
    assert (error.code, error.message) == (ErrorCode.NOT_AUDIO, sentence)


# --- hints ---


@pytest.mark.parametrize(
    ("kind", "content_type", "extension", "misleading"),
    [
        ("mp3", "audio/mpeg", "mp3", []),
        ("mp3", "application/octet-stream", None, []),
        ("mp3", None, "mp3", []),
        ("mp3", "audio/x-something-new", None, []),
        ("m4a", "video/mp4", "m4a", []),
        ("webm", "audio/webm", "webm", []),
        ("rf64", "audio/wav", "wav", []),
        ("mp3", "text/html", "mp3", ["text/html"]),
        ("mp3", "application/json", None, ["application/json"]),
        ("flac", "audio/mpeg", "wav", ["wav", "audio/mpeg"]),
        ("m4a", "audio/mp4", "mp3", ["mp3"]),
    ],
)
def test_contradicting_hint_is_logged_only(
    tmp_path: Path, kind: str, content_type: str | None, extension: str | None, misleading: list[str]
) -> None:
    source = WRITERS[kind](tmp_path / "song")
    with capture_logs() as lines:
        form = probe(source, max_seconds=60, hints=Hints(content_type, extension))
    warnings = [line for line in lines if line["log_level"] == "warning"]
    assert [(line["event"], line["hint"]) for line in warnings] == [("source_mislabelled", hint) for hint in misleading]
    assert all(line["container"] == form.container for line in warnings)
