"""The parts of files that hold sound: tags, links, frames and checksums."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from processor.audio.formats.adts import skipped_parts
from processor.audio.formats.byte_ranges import find, part_of
from processor.audio.formats.damage import Damage, find_damage
from processor.audio.formats.flac import frame_starts
from processor.audio.formats.links import links
from processor.audio.formats.tags import sound_ranges
from tests.processor.corpus.cases import APE, ID3V1, ID3V2
from tests.processor.source_files import noise, write_av, write_pcm

MPEG = b"\xff\xfb\x90\x64" + bytes(100)
PCM = b"RIFF" + bytes(100)


@pytest.mark.parametrize(
    ("content", "ranges"),
    [
        (PCM, [(0, 104)]),
        (ID3V2 + PCM, [(20, 124)]),
        (ID3V2 + APE + ID3V1 + PCM, [(20 + 84 + 128, 20 + 84 + 128 + 104)]),
        (PCM + ID3V1, [(0, 104 + 128)]),  # a WAV has a length of its own
        (MPEG + ID3V1, [(0, 104)]),
        (MPEG + APE + ID3V1, [(0, 104)]),
        (MPEG + ID3V1 + APE, [(0, 104)]),
        (MPEG + ID3V2 + MPEG, [(0, 104), (124, 228)]),
        (MPEG + ID3V1 + ID3V2 + MPEG, [(0, 104), (252, 356)]),
        (MPEG + ID3V2 + b"no frame" + MPEG, [(0, 104 + 20 + 8 + 104)]),
        (ID3V2, [(0, 20)]),
        (b"", [(0, 0)]),
    ],
)
def test_sound_is_what_is_left_without_tags(content: bytes, ranges: list[tuple[int, int]]) -> None:
    assert sound_ranges(io.BytesIO(content)) == ranges


@given(st.lists(st.sampled_from([ID3V2, ID3V1, APE, MPEG, PCM, b"ID3", b"TAG", b"APETAGEX" + bytes(24)]), max_size=8))
def test_ranges_are_ordered_and_within_any_file(parts: list[bytes]) -> None:
    content = b"".join(parts)
    edges = [edge for part in sound_ranges(io.BytesIO(content)) for edge in part]
    assert edges == sorted(edges)
    assert edges[0] >= 0
    assert edges[-1] <= len(content)


@given(st.binary(max_size=400), st.sampled_from([b"OggS", b"fLaC", b"\x1a\x45\xdf\xa3", b"\xff\xf1", b"ID3"]))
def test_any_bytes_have_links_and_damage(content: bytes, magic: bytes) -> None:
    file = io.BytesIO(magic + content)
    ranges = links(file)
    assert (ranges[0][0], ranges[-1][1]) == (0, len(magic) + len(content))
    find_damage(file)


@given(st.data())
def test_part_of_a_file_reads_like_its_bytes(data: st.DataObject) -> None:
    content = bytes(range(200))
    edges = sorted(data.draw(st.lists(st.integers(0, 200), min_size=2, max_size=8).filter(lambda x: len(x) % 2 == 0)))
    ranges = list(zip(edges[::2], edges[1::2], strict=True))
    whole = b"".join(content[start:end] for start, end in ranges)
    part = part_of(io.BytesIO(content), ranges)
    offset = data.draw(st.integers(0, 220))
    assert part.seek(offset) == offset
    assert part.read(50) == whole[offset : offset + 50]
    assert part.seek(0, io.SEEK_END) == len(whole)


def test_marker_is_found_across_windows() -> None:
    content = bytes((1 << 20) - 2) + b"OggS" + bytes(10)
    assert find(io.BytesIO(content), b"OggS", 0) == (1 << 20) - 2
    assert find(io.BytesIO(content), b"none", 5) == len(content)


@pytest.mark.parametrize("container", ["matroska", "ogg"])
def test_every_changed_bit_of_the_sound_is_found(tmp_path: Path, container: str) -> None:
    source = write_av(tmp_path / "song", noise(2.0), "flac", container)
    content = source.read_bytes()
    assert find_damage(io.BytesIO(content)) == Damage()
    for share in np.linspace(0.1, 0.9, 9):
        changed = bytearray(content)
        changed[int(len(content) * share)] ^= 1
        assert find_damage(io.BytesIO(changed)).parts == 1


def test_skipped_part_of_adts_is_measured(tmp_path: Path) -> None:
    content = write_av(tmp_path / "song", noise(1.0), "aac", "adts").read_bytes()
    assert skipped_parts(io.BytesIO(content)) == []
    first = (int.from_bytes(content[3:6], "big") >> 5) & 0x1FFF
    assert skipped_parts(io.BytesIO(content[:first] + bytes(500) + content[first:])) == [(first, 500)]
    assert skipped_parts(io.BytesIO(bytes(500) + content + bytes(500))) == []


def test_frames_of_flac_are_found_in_one_packet(tmp_path: Path) -> None:
    content = write_pcm(tmp_path / "song", noise(1.0), container="FLAC").read_bytes()
    starts = frame_starts(content[content.find(b"\xff\xf8") :], content[8:42])
    assert [sample for _, sample in starts] == list(range(0, 44_100, 4096))
