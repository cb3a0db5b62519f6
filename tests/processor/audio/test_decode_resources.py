"""Decoding can be cancelled, needs constant memory, and reports a full disk as an infrastructure error."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from pipeline.cancellation import CancelToken
from pipeline.errors import CancelledError, ErrorCode, InfrastructureError
from processor.audio.decode import _scaled, decode
from tests.processor.source_files import RATE, WRITERS, noise, write_pcm

REPOSITORY = Path(__file__).resolve().parents[3]


def cancelled() -> CancelToken:
    cancel = CancelToken()
    cancel.cancel(ErrorCode.DELIVERY_LOST)
    return cancel


def test_cancel_stops_decoding(tmp_path: Path) -> None:
    source = WRITERS["wav"](tmp_path / "song")
    with pytest.raises(CancelledError) as caught:
        decode(source, tmp_path, max_seconds=60, cancel=cancelled())
    assert caught.value.code is ErrorCode.DELIVERY_LOST
    assert (tmp_path / "decoded.wav").stat().st_size < 10_000


def test_cancel_stops_scaling(tmp_path: Path) -> None:
    source = WRITERS["wav"](tmp_path / "song")
    with pytest.raises(CancelledError):
        next(_scaled(source, 1.0, cancelled()))


def test_missing_source_is_an_infrastructure_error(tmp_path: Path) -> None:
    with pytest.raises(InfrastructureError) as caught:
        decode(tmp_path / "source", tmp_path, max_seconds=60, cancel=CancelToken())
    assert caught.value.message == "a local file cannot be read or written: No such file or directory"


LIMITED = """
import resource, signal, sys
from pathlib import Path
from pipeline.cancellation import CancelToken
from pipeline.errors import InfrastructureError
from processor.audio.decode import _scaled, decode
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
for limit in sys.argv[2:]:
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), resource.RLIM_INFINITY))
    try:
        decode(Path(sys.argv[1]), Path(sys.argv[1]).parent, max_seconds=60, cancel=CancelToken())
    except InfrastructureError as error:
        print(error.code, error.message)
"""


def test_full_disk_is_an_infrastructure_error(tmp_path: Path) -> None:
    """The limit of file size in a separate process is reached in the header, in the middle, and at the end."""
    source = WRITERS["flac"](tmp_path / "song")
    limits = [10, 200_000, 4 * RATE * 8 - 1]
    finished = subprocess.run(
        [sys.executable, "-c", LIMITED, str(source), *map(str, limits)],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
        timeout=60,
        check=True,
    )
    sentence = "disk_full the disk is full\n"
    assert finished.stdout == sentence * len(limits)


MEMORY = """
import resource, sys
from pathlib import Path
from pipeline.cancellation import CancelToken
from processor.audio.decode import _scaled, decode
for name in sys.argv[1:]:
    folder = Path(name).with_suffix("")
    folder.mkdir()
    decode(Path(name), folder, max_seconds=3600, cancel=CancelToken())
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_song(tmp_path: Path) -> None:
    """A song of 10 minutes (212 MB as float32) after one of 20 seconds, in one process."""
    short, long = (
        write_pcm(tmp_path / f"{seconds}.song", np.tile(noise(10.0), (1, seconds // 10)), container="FLAC")
        for seconds in (20, 600)
    )
    finished = subprocess.run(
        [sys.executable, "-c", MEMORY, str(short), str(long)],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
        timeout=100,
        check=True,
    )
    before, after = (int(line) for line in finished.stdout.split())
    assert after - before < 16 * 1024, f"{(after - before) >> 10} MiB more"


LONG = """
import resource, sys
from pathlib import Path
from pipeline.cancellation import CancelToken
from processor.audio.resampler import Resampler
from processor.audio.track import open_track
for name in sys.argv[1:]:
    with open_track(Path(name)) as track:
        resampler = Resampler(8000, 44_100, channels=2)
        frames = sum(len(resampler.process(block)) for block in track.blocks(4 * 3600, CancelToken()))
        print(frames + len(resampler.flush()))
        track.require_whole()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_a_song_of_three_hours(tmp_path: Path) -> None:
    """At 8 kHz in mono, without writing the decoded files, which would have 4 GB each."""
    minute = noise(60.0, rate=8000, channels=1)[0]
    minutes = {"short": 1, "long": 180}
    for name, count in minutes.items():
        with soundfile.SoundFile(tmp_path / name, "w", 8000, 1, "PCM_16", format="FLAC") as file:
            for _ in range(count):
                file.write(minute)
    finished = subprocess.run(
        [sys.executable, "-c", LONG, *(str(tmp_path / name) for name in minutes)],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
        timeout=100,
        check=True,
    )
    short_frames, short, long_frames, long = map(int, finished.stdout.split())
    assert (short_frames, long_frames) == (60 * 44_100, 180 * 60 * 44_100)
    assert long - short < 16 * 1024
