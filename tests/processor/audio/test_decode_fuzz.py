"""Damaged files of every container give a song or a clear error: no crash, no hang, no excessive memory."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import av
import pytest

from pipeline.errors import ErrorCode, PermanentError
from processor.audio.probe import probe
from tests.processor.source_files import noise, write_av

REPOSITORY = Path(__file__).resolve().parents[3]
SEED = 20_261
COUNT = 6
#: The time limit for one short file, s: longer here would mean hours for a song. A busy machine needs 1 s.
MAX_SECONDS = 10.0

FRAGMENTS = {"movflags": "frag_keyframe+empty_moov+default_base_moof", "frag_duration": "100000"}
#: Codec and container of each file; those with pictures have "film" in their names.
KINDS: dict[str, tuple[str, str]] = {
    "aac": ("aac", "adts"),
    "ac3": ("ac3", "ac3"),
    "aiff": ("pcm_s16be", "aiff"),
    "alac": ("alac", "ipod"),
    "asf": ("pcm_s16le", "asf"),
    "au": ("pcm_s16be", "au"),
    "avi film": ("mp2", "avi"),
    "caf": ("pcm_s16be", "caf"),
    "eac3": ("eac3", "eac3"),
    "flac": ("flac", "flac"),
    "flv": ("aac", "flv"),
    "m4a": ("aac", "mp4"),
    "m4a in fragments": ("aac", "mp4"),
    "mkv film": ("aac", "matroska"),
    "mov": ("pcm_s16be", "mov"),
    "mp3": ("libmp3lame", "mp3"),
    "mpeg": ("mp2", "mpeg"),
    "mpegts film": ("aac", "mpegts"),
    "ogg": ("libopus", "ogg"),
    "tta": ("tta", "tta"),
    "w64": ("pcm_s16le", "w64"),
    "wav": ("pcm_s16le", "wav"),
    "wavpack": ("wavpack", "wv"),
    "webm": ("libopus", "webm"),
}


def written(folder: Path, kind: str) -> Path:
    codec, container = KINDS[kind]
    rate = 48_000 if codec == "libopus" else 44_100
    path = folder / kind.replace(" ", "-")
    pictures = 0.2 if "film" in kind else 0.0
    options = FRAGMENTS if "fragments" in kind else None
    return write_av(path, noise(0.4, rate=rate), codec, container, rate=rate, video_seconds=pictures, options=options)


@pytest.mark.slow
def test_damaged_files_give_a_song_or_a_permanent_error(tmp_path: Path) -> None:
    """A failure can be reproduced from the seed, the file's name and the number."""
    files = [written(tmp_path, kind) for kind in KINDS]
    run = subprocess.run(
        [sys.executable, "-m", "tests.processor.audio.damage", str(tmp_path), str(SEED), str(COUNT), *map(str, files)],
        cwd=REPOSITORY,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        timeout=110,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    lines = re.findall(r"^(\S+) (\d+) ([\d.]+) (\w+)$", run.stderr, re.MULTILINE)
    assert len(lines) == len(files) * COUNT
    assert max(float(seconds) for _, _, seconds, _ in lines) < MAX_SECONDS
    ends = {end for *_, end in lines}
    assert ends - {"decoded"} <= set(ErrorCode)
    assert {"decoded", ErrorCode.AUDIO_CORRUPT, ErrorCode.NOT_AUDIO} <= ends


# --- single hostile files ---

HOSTILE = """
import resource, sys
from pathlib import Path
from tests.processor.audio.damage import outcome
source = Path(sys.argv[1])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
end = outcome(source, source.with_name("decoded"))
sys.stderr.write(f"{end} {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before >> 10}")
"""


def run_hostile(source: Path) -> tuple[str, int]:
    """Return the outcome, and the memory used, MiB."""
    command = [sys.executable, "-c", HOSTILE, str(source)]
    run = subprocess.run(
        command, cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, timeout=60, check=True
    )
    end, mebibytes = run.stderr.split()
    return end, int(mebibytes)


def test_huge_declared_index_is_not_allocated(tmp_path: Path) -> None:
    """10 KB declare 80 million samples; without the limit, ffmpeg needs 3 GB and 15 s for them."""
    source = written(tmp_path, "m4a")
    content, samples = bytearray(source.read_bytes()), (80_000_000).to_bytes(4, "big")
    for box, offset, value in [
        (b"stsz", 8, b"\0\0\0\1" + samples),
        (b"stsc", 16, samples),
        (b"stts", 12, samples),
    ]:
        place = content.index(box) + offset
        content[place : place + len(value)] = value
    source.write_bytes(content)
    end, mebibytes = run_hostile(source)
    assert end in set(ErrorCode)
    assert mebibytes < 300


@pytest.fixture
def invalid_seek(tmp_path: Path) -> Path:
    """Return an ASF whose first object has a size that leads to a position before the start of the file."""
    source = written(tmp_path, "asf")
    content = bytearray(source.read_bytes())
    content[45:53] = b"\xff" * 8
    source.write_bytes(content)
    return source


def test_invalid_seek_is_not_a_local_disk_error(invalid_seek: Path) -> None:
    with pytest.raises(PermanentError):
        probe(invalid_seek, max_seconds=60)


def test_pyav_alone_raises_oserror_for_an_invalid_seek(invalid_seek: Path) -> None:
    with invalid_seek.open("rb") as file, pytest.raises(OSError, match="Invalid argument") as caught:
        av.open(file, mode="r")
    assert type(caught.value) is OSError
