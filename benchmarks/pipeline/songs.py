"""The songs, and their server: every connection to it is slow and far.

    python -m benchmarks.pipeline.songs FOLDER HOST

serves each sub-folder of ``FOLDER`` on a port of its own, with the server of the download benchmark, and prints the
ports as JSON. It ends when its standard input does.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import soundfile

from benchmarks.download.laboratory import LOOPBACK
from benchmarks.download.profile import Profile
from benchmarks.download.sandbox import service
from benchmarks.download.server import FaultServer
from demo.song import render_song

#: Of each connection: 20 Mbit/s, in bytes/s, and 180 ms.
RATE: Final = 2_500_000
ROUND_TRIP: Final = 0.18
#: Songs are in these formats by turns.
FORMATS: Final = ("MP3", "FLAC", "WAV")

#: What is composed and played, s; longer songs repeat it.
_PLAYED = 30.0


@dataclass(frozen=True, slots=True)
class ServedSong:
    """A song on the server."""

    seconds: float
    bytes: int
    port: int

    def url(self, run: str) -> str:
        """Where ``run``, a word that nobody else uses, finds it."""
        profile = Profile(self.bytes, rate=RATE, round_trip=ROUND_TRIP)
        return f"http://{LOOPBACK}:{self.port}{profile.path(run)}"


@contextmanager
def songs_served(folder: Path, lengths: Sequence[float]) -> Iterator[list[ServedSong]]:
    """Songs of these lengths (s), made in ``folder``, while they are served."""
    played = render_song(seconds=_PLAYED)
    for number, seconds in enumerate(lengths):
        own = folder / str(number)
        own.mkdir(parents=True)
        frames = np.arange(round(seconds * played.sample_rate)) % played.mixture.shape[1]
        form = FORMATS[number % len(FORMATS)]
        soundfile.write(own / "old", played.mixture[:, frames].T, played.sample_rate, format=form)
        (own / "new").touch()  # the server can replace files, which is not wanted here
    with service("benchmarks.pipeline.songs", str(folder), LOOPBACK) as ports:
        yield [
            ServedSong(seconds, (folder / str(number) / "old").stat().st_size, port)
            for number, (seconds, port) in enumerate(zip(lengths, json.loads(ports), strict=True))
        ]


def main(folder: str, host: str) -> None:
    """Serve until the input ends."""
    folders = sorted(Path(folder).iterdir(), key=lambda path: int(path.name))
    sys.stdout.write(f"{json.dumps([FaultServer(each, host).port for each in folders])}\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
