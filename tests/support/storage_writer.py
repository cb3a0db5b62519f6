"""A process that puts one large object after the other until it is killed; it tells of each that was stored.

Arguments: the place as JSON, and a path for the file that it puts.
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

from tests.conformance.storage.backends import Place

SIZE = 24 * 1024**2


def content(number: int) -> bytes:
    """Of every object another one, so that a mixture would be noticed."""
    return bytes([number % 251]) * SIZE


if __name__ == "__main__":
    store = Place.from_json(sys.argv[1]).open()
    source = Path(sys.argv[2])
    for number in itertools.count():
        source.write_bytes(content(number))
        sys.stdout.write(f"begun {number}\n")
        sys.stdout.flush()
        store.put(f"object-{number}", source, content_type="audio/wav")
        sys.stdout.write(f"stored {number}\n")
        sys.stdout.flush()
