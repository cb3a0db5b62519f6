"""A process that competes to be the first writer of several objects, and prints the winner of each.

Arguments: the location as JSON, and the name of the process.
"""

from __future__ import annotations

import sys

from tests.conformance.storage.backends import StoreLocation

OBJECTS = 20
_REPEATS = 20_000


def key(number: int) -> str:
    return f"outcomes/{number}.json"


def content(name: str, number: int) -> bytes:
    """Return content that is unique for each process and object, so that a mixture is detected."""
    return f"{name} {number} ".encode() * _REPEATS


def winner(stored: bytes) -> str:
    """Return the name of the writer. Raises ValueError if the content is not complete."""
    name, number, _ = stored.decode().split(" ", 2)
    if stored != content(name, int(number)):
        raise ValueError("the content is not complete")
    return name


if __name__ == "__main__":
    store = StoreLocation.from_json(sys.argv[1]).open()
    for number in range(OBJECTS):
        stored = store.put_new(key(number), content(sys.argv[2], number), content_type="application/json")
        sys.stdout.write(winner(stored) + "\n")
        sys.stdout.flush()
