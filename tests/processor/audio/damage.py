"""Probes and decodes damaged files, in a process of its own: whatever they do to ffmpeg shows in its end.

``python -m tests.processor.audio.damage FOLDER SEED COUNT FILE...`` writes one line to standard error for each of ``COUNT``
damaged versions of each file: its name and number, the seconds that it took, and ``decoded`` or the code of the error,
which is a PermanentError.
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
#: At each end of a file, where headers and indices are, bytes.
_ENDS = 700


def damaged(content: bytes, chance: random.Random) -> bytes:
    """Cut off, or with a few bits or bytes changed, most often where they matter most."""
    if chance.random() < 0.25:
        return content[: chance.randrange(len(content))]
    changed = bytearray(content)
    for _ in range(chance.choice((1, 2, 8, 64))):
        place = chance.randrange(len(content))
        if chance.random() < 0.8:
            place = chance.choice((1, -1)) * (place % min(_ENDS, len(content)))
        changed[place] = chance.choice(
            (changed[place] ^ 1 << chance.randrange(8), 0, 0x7F, 0xFF, chance.randrange(256))
        )
    return bytes(changed)


def outcome(source: Path, folder: Path) -> str:
    """What becomes of one file. Raises whatever is not meant to happen."""
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
    """See the module."""
    faulthandler.enable()
    source = folder / "damaged"
    for file in files:
        chance, content = random.Random(f"{seed} {file.name}"), file.read_bytes()
        for number in range(count):
            source.write_bytes(damaged(content, chance))
            # Which one it was is told first, should the process die of it.
            sys.stderr.write(f"{file.name} {number} ")
            started = time.monotonic()
            told = outcome(source, folder / "decoded")
            sys.stderr.write(f"{time.monotonic() - started:.3f} {told}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), [Path(name) for name in sys.argv[4:]])
