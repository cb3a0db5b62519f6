"""Render the songs and serve them over slow connections with a long round trip.

    python -m benchmarks.pipeline.songs FOLDER HOST

serves each subfolder of ``FOLDER`` on its own port, with the server of the download benchmark, and prints the ports as
JSON. It ends when its standard input ends.
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
from benchmarks.download.sandbox import service
from benchmarks.download.server.profile import Profile
from benchmarks.download.server.server import FaultServer
from demo.song import render_song

#: Rate of each connection, bytes/s (20 Mbit/s), and its round trip, s.
RATE: Final = 2_500_000
ROUND_TRIP: Final = 0.18
#: The formats of the songs, in rotation.
FORMATS: Final = ("MP3", "FLAC", "WAV")

#: Length of the rendered song, s; longer songs repeat it.
_RENDERED_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class ServedSong:
    """A song on the server."""

    seconds: float
    bytes: int
    port: int

    def url(self, run: str) -> str:
        """Return the URL of the song for ``run``, a unique word."""
        profile = Profile(self.bytes, rate=RATE, round_trip=ROUND_TRIP)
        return f"http://{LOOPBACK}:{self.port}{profile.path(run)}"


@contextmanager
def songs_served(folder: Path, lengths: Sequence[float]) -> Iterator[list[ServedSong]]:
    """Render songs of these lengths (s) into ``folder`` and serve them during the block."""
    rendered = render_song(seconds=_RENDERED_SECONDS)
    for number, seconds in enumerate(lengths):
        song_dir = folder / str(number)
        song_dir.mkdir(parents=True)
        frames = np.arange(round(seconds * rendered.sample_rate)) % rendered.mixture.shape[1]
        form = FORMATS[number % len(FORMATS)]
        soundfile.write(song_dir / "old", rendered.mixture[:, frames].T, rendered.sample_rate, format=form)
        (song_dir / "new").touch()  # the server can replace files, which is not used here
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
