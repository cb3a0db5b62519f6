"""A process that stores one large object after the other until it is killed, and reports each.

Arguments: the place as JSON, and a path for its source file.
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

from tests.conformance.storage.backends import Place

SIZE = 24 * 1024**2


def content(number: int) -> bytes:
    """Return a content that differs between objects, so that a mixture is detected."""
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
