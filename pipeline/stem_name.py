"""Names of stems: as models define them, as clients request and receive them, and as parts of keys and file names."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable
from typing import Annotated

from pydantic import AfterValidator, StringConstraints

MAX_LENGTH = 64


def normalise_stem_name(name: str) -> str:
    """Return a model's name for a stem as clients know it: ``No Drums`` → ``no_drums``, ``人声`` → ``人声``.

    It has lower-case letters, marks and digits of any script, ``_`` and ``-``, in Unicode's form NFKC.
    """
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).lower())
    plain = "".join(character if _is_allowed(character) else " " for character in text)
    return re.sub(" +", "_", plain).strip("_-")[:MAX_LENGTH] or "stem"


def stem_names(names: Iterable[str]) -> tuple[str, ...]:
    """Return the normalised names of one model's stems, each different: ``Drums!``, ``Drums?`` → ``drums, drums_2``."""
    found: dict[str, None] = {}
    for name in names:
        first = normalise_stem_name(name)
        candidate, number = first, 1
        while candidate in found:
            number += 1
            candidate = f"{first[: MAX_LENGTH - 4]}_{number}"
        found[candidate] = None
    return tuple(found)


def stem_segment(name: str) -> str:
    """Return the name as a part of a key or of a file name, in ASCII: itself, or a hash of a name with other letters.

    Different names have different results.
    """
    return name if name.isascii() else f"stem-{hashlib.sha256(name.encode()).hexdigest()[:16]}"


def _is_allowed(character: str) -> bool:
    return character in "_-" or unicodedata.category(character)[0] in "LMN"


def _require_normalised(name: str) -> str:
    normal = unicodedata.normalize("NFKC", name).lower() == name and all(map(_is_allowed, name))
    if not normal or unicodedata.category(name[0])[0] not in "LN":
        raise ValueError("must be lower-case letters, digits, _ and -, and begin with a letter or a digit")
    return name


#: A stem's normalised name.
StemName = Annotated[str, StringConstraints(min_length=1, max_length=MAX_LENGTH), AfterValidator(_require_normalised)]
