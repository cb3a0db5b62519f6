"""DRM is detected by the file's index, and by nothing else in the file."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

import pytest

from pipeline.errors import ErrorCode, PermanentError
from processor.audio.formats import drm as module
from processor.audio.formats.drm import drm_scheme
from processor.audio.probe import probe
from tests.processor.source_files import WRITERS, noise, write_av

CENC = {
    "encryption_scheme": "cenc-aes-ctr",
    "encryption_key": "76a6c65c5ea762046bd749a2e632ccbb",
    "encryption_kid": "a7e61c373e219033c21091fa607bf3b8",
}
FRAGMENTS = {"movflags": "frag_keyframe+empty_moov+default_base_moof", "frag_duration": "100000"}


def scheme_of(path: Path) -> str | None:
    with path.open("rb") as file:
        return drm_scheme(file)


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def renamed(source: Path, old: bytes, new: bytes) -> Path:
    """Replace the first ``old`` of the index with ``new``."""
    content = source.read_bytes()
    assert old in content
    return written(source, content.replace(old, new, 1))


# --- MP4 ---


@pytest.mark.parametrize("options", [CENC, {**CENC, **FRAGMENTS}, {**CENC, "movflags": "+faststart"}])
def test_common_encryption_is_refused(tmp_path: Path, options: dict[str, str]) -> None:
    source = write_av(tmp_path / "song", noise(0.5), "aac", "mp4", options=options)
    with pytest.raises(PermanentError) as caught:
        probe(source, max_seconds=60)
    assert (caught.value.code, caught.value.message) == (
        ErrorCode.AUDIO_PROTECTED,
        "the source is protected by DRM (Common Encryption) and cannot be decoded: "
        "give the address of an unprotected file",
    )


@pytest.mark.parametrize(("entry", "scheme"), [(b"drms", "FairPlay"), (b"aavd", "Audible"), (b"mp4a", None)])
def test_mp4_scheme_by_sample_description(tmp_path: Path, entry: bytes, scheme: str | None) -> None:
    source = write_av(tmp_path / "song", noise(0.5), "aac", "mp4")
    assert scheme_of(renamed(source, b"mp4a", entry)) == scheme


def test_video_with_clear_audio_is_accepted(tmp_path: Path) -> None:
    source = write_av(tmp_path / "film", noise(0.5), "aac", "mp4", video_seconds=0.2)
    assert scheme_of(renamed(source, b"mp4v", b"encv")) is None


def test_video_with_encrypted_audio_is_detected(tmp_path: Path) -> None:
    source = write_av(tmp_path / "film", noise(0.5), "aac", "mp4", video_seconds=0.2)
    assert scheme_of(renamed(source, b"mp4a", b"enca")) == "Common Encryption"


def test_identifier_outside_the_index_is_ignored(tmp_path: Path) -> None:
    source = write_av(tmp_path / "song", noise(0.5), "aac", "mp4")
    assert scheme_of(written(source, source.read_bytes() + b"\0\0\0\x10freeencadrms")) is None


# --- Matroska ---

TRACK_TYPE, AUDIO, VIDEO = "83", b"\x02", b"\x01"
ENCRYPTED = ("6d80", ("6240", ("5035", b"\x47\xe1\x01\x05")))
COMPRESSED = ("6d80", ("6240", ("5034", b"\x42\x54\x01\x03")))


def element(kind: str, *content: object, size: bytes | None = None) -> bytes:
    """Build an EBML element from nested ``(kind, content)``."""
    body = b"".join(part if isinstance(part, bytes) else element(*part) for part in content)  # type: ignore[misc]
    return bytes.fromhex(kind) + (size or (len(body) | 1 << 28).to_bytes(4, "big")) + body


def webm(*tracks: tuple[object, ...], segment_size: bytes | None = None) -> bytes:
    entries = (("ae", ("d7", b"\x01"), *track) for track in tracks)
    segment = (("ec", bytes(30)), ("1654ae6b", *entries), ("1f43b675", bytes(100)))
    return element("1a45dfa3", ("4282", b"webm")) + element("18538067", *segment, size=segment_size)


@pytest.mark.parametrize("size", [None, b"\xff", b"\x01" + b"\xff" * 7])
@pytest.mark.parametrize(
    ("tracks", "scheme"),
    [
        ([((TRACK_TYPE, AUDIO), ENCRYPTED)], "WebM encryption"),
        ([(ENCRYPTED, (TRACK_TYPE, b"\0" + AUDIO))], "WebM encryption"),
        ([((TRACK_TYPE, AUDIO), COMPRESSED)], None),
        ([((TRACK_TYPE, AUDIO),)], None),
        ([((TRACK_TYPE, VIDEO), ENCRYPTED), ((TRACK_TYPE, AUDIO),)], None),
        ([((TRACK_TYPE, VIDEO),), ((TRACK_TYPE, AUDIO), ENCRYPTED)], "WebM encryption"),
        ([((TRACK_TYPE, VIDEO), ENCRYPTED)], None),
    ],
)
def test_matroska_scheme_by_content_encoding(
    tmp_path: Path, tracks: list[tuple[object, ...]], scheme: str | None, size: bytes | None
) -> None:
    """A segment that was streamed while it was written has an unknown size."""
    assert scheme_of(written(tmp_path / "song", webm(*tracks, segment_size=size))) == scheme


# --- the others ---


def asf(*objects: str) -> bytes:
    body = b"".join(UUID(name).bytes_le + (24 + 8).to_bytes(8, "little") + bytes(8) for name in objects)
    size, count = (30 + len(body)).to_bytes(8, "little"), len(objects).to_bytes(4, "little")
    return UUID("75b22630-668e-11cf-a6d9-00aa0062ce6c").bytes_le + size + count + b"\x01\x02" + body


FILE_PROPERTIES = "8cabdca1-a947-11cf-8ee4-00c00c205365"
ENCRYPTION, MORE_ENCRYPTION = "2211b3fb-bd23-11d2-b4b7-00a0c955fc6e", "298ae614-2622-4c17-b935-dae07ee9289c"


@pytest.mark.parametrize(
    ("objects", "scheme"),
    [
        ([FILE_PROPERTIES, ENCRYPTION], "Windows Media"),
        ([MORE_ENCRYPTION], "Windows Media"),
        ([FILE_PROPERTIES], None),
        ([], None),
    ],
)
def test_asf_scheme_by_objects(tmp_path: Path, objects: list[str], scheme: str | None) -> None:
    assert scheme_of(written(tmp_path / "song", asf(*objects))) == scheme


def test_audible_is_detected(tmp_path: Path) -> None:
    assert scheme_of(written(tmp_path / "book", b"\0\0\x10\0\x57\x90\x75\x36" + bytes(100))) == "Audible"


@pytest.mark.parametrize("kind", WRITERS)
def test_unencrypted_files_have_no_scheme(tmp_path: Path, kind: str) -> None:
    assert scheme_of(WRITERS[kind](tmp_path / "song")) is None


# --- hostile files ---

FILES = {
    "MP4": b"\0\0\0\x18ftypM4A \0\0\2\0isomiso2" + b"\0\0\0\x40moov\0\0\0\x38trak\0\0\0\x30mdia" + bytes(40),
    "WebM": webm(((TRACK_TYPE, AUDIO), ENCRYPTED)),
    "ASF": asf(FILE_PROPERTIES, ENCRYPTION),
}


@pytest.mark.parametrize("kind", FILES)
def test_truncated_and_changed_files_raise_nothing(tmp_path: Path, kind: str) -> None:
    whole, source = FILES[kind], tmp_path / "song"
    for place in range(len(whole)):
        scheme_of(written(source, whole[:place]))
        for value in (0, 1, 0x7F, 0xFF):
            scheme_of(written(source, whole[:place] + bytes([value]) + whole[place + 1 :]))


def test_number_of_reads_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hostile file may have very many tracks with very many boxes."""
    monkeypatch.setattr(module, "_MAX_READS", 100)
    box = b"\0\0\0\x08free" * 200
    trak = (8 + 8 + len(box)).to_bytes(4, "big") + b"trak" + (8 + len(box)).to_bytes(4, "big") + b"mdia" + box
    moov = (8 + 50 * len(trak)).to_bytes(4, "big") + b"moov" + 50 * trak
    with written(tmp_path / "song", moov).open("rb") as file:
        index = module._Index(file)
        assert module._mp4_scheme(index) is None
    assert -10 < index._reads_left < 0
