"""A process that wants to be the first at one object after the other; it tells who was.

Arguments: the place as JSON, and the name of the process.
"""

from __future__ import annotations

import sys

from tests.conformance.storage.backends import Place

OBJECTS = 20
_REPEATS = 20_000


def key(number: int) -> str:
    return f"outcomes/{number}.json"


def content(name: str, number: int) -> bytes:
    """Of every process and object another one, so that a mixture would be noticed."""
    return f"{name} {number} ".encode() * _REPEATS


def winner(found: bytes) -> str:
    """Who has written what was found there. Raises ValueError if nobody has, as a whole."""
    name, number, _ = found.decode().split(" ", 2)
    if found != content(name, int(number)):
        raise ValueError("not whole")
    return name


if __name__ == "__main__":
    store = Place.from_json(sys.argv[1]).open()
    for number in range(OBJECTS):
        found = store.put_new(key(number), content(sys.argv[2], number), content_type="application/json")
        sys.stdout.write(winner(found) + "\n")
        sys.stdout.flush()
