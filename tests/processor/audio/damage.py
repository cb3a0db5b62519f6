"""Probe and decode damaged files in a separate process, so that a crash of ffmpeg shows in its exit status.

``python -m tests.processor.audio.damage FOLDER SEED COUNT FILE...`` writes one line to standard error for each of
``COUNT`` damaged versions of each file: its name and number, the duration in s, and ``decoded`` or the code of the
PermanentError.
"""

from __future__ import annotations

import faulthandler
import random
import shutil
import sys
import time
from pathlib import Path

from pipeline.cancellation import CancelToken
from pipeline.errors import PermanentError
from processor.audio.decode import decode
from processor.audio.probe import probe

MAX_SECONDS = 5.0
#: The size of the regions at each end of a file that contain headers and indices, bytes.
_ENDS = 700


def damaged(content: bytes, rng: random.Random) -> bytes:
    """Return ``content`` cut off, or with a few bits or bytes changed, most of them in headers and indices."""
    if rng.random() < 0.25:
        return content[: rng.randrange(len(content))]
    changed = bytearray(content)
    for _ in range(rng.choice((1, 2, 8, 64))):
        place = rng.randrange(len(content))
        if rng.random() < 0.8:
            place = rng.choice((1, -1)) * (place % min(_ENDS, len(content)))
        changed[place] = rng.choice((changed[place] ^ 1 << rng.randrange(8), 0, 0x7F, 0xFF, rng.randrange(256)))
    return bytes(changed)


def outcome(source: Path, folder: Path) -> str:
    """Return ``decoded`` or the code of the PermanentError. Raises any other error."""
    folder.mkdir()
    try:
        probe(source, max_seconds=MAX_SECONDS)
        mixture = decode(source, folder, max_seconds=MAX_SECONDS, cancel=CancelToken())
        assert 0 < mixture.duration <= MAX_SECONDS
    except PermanentError as error:
        return error.code
    finally:
        shutil.rmtree(folder)
    return "decoded"


def main(folder: Path, seed: int, count: int, files: list[Path]) -> None:
    """Run the program that the module describes."""
    faulthandler.enable()
    source = folder / "damaged"
    for file in files:
        rng, content = random.Random(f"{seed} {file.name}"), file.read_bytes()
        for number in range(count):
            source.write_bytes(damaged(content, rng))
            # Name the version first, in case the process crashes.
            sys.stderr.write(f"{file.name} {number} ")
            started = time.monotonic()
            end_code = outcome(source, folder / "decoded")
            sys.stderr.write(f"{time.monotonic() - started:.3f} {end_code}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), [Path(name) for name in sys.argv[4:]])
