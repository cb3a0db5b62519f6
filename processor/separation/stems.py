"""Names of stems, as models give them and as clients ask for them."""

from __future__ import annotations

import re
from collections.abc import Iterable

from pipeline.errors import ErrorCode, PermanentError


class StemMissingError(Exception):
    """The model came to an end without an error and without a stem, or what it gave is none."""


def normalise_stem_name(name: str) -> str:
    """A model's name for a stem as it appears in keys, file names and messages: ``No Drums`` → ``no_drums``."""
    return re.sub("[^a-z0-9_-]+", "_", name.lower()).strip("_-") or "stem"


def require_known(asked: tuple[str, ...] | None, has: Iterable[str]) -> None:
    """Raise PermanentError (``stem_unknown``) if a stem is asked for that the model does not have."""
    has = set(has)
    strange = set(asked or ()) - has
    if strange:
        raise PermanentError(
            f"the model has no stem named {', '.join(sorted(strange))}; it has {', '.join(sorted(has))}",
            code=ErrorCode.STEM_UNKNOWN,
        )
