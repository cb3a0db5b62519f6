"""Stems that a model does not have, or did not give."""

from __future__ import annotations

from collections.abc import Iterable

from pipeline.errors import ErrorCode, PermanentError


class StemMissingError(Exception):
    """The model finished without an error, but a stem is missing or invalid."""


def require_known(requested: tuple[str, ...] | None, available: Iterable[str]) -> None:
    """Raise PermanentError (``stem_unknown``) if a requested stem is not among the model's available stems."""
    available = set(available)
    unknown = set(requested or ()) - available
    if unknown:
        raise PermanentError(
            f"the model has no stem named {', '.join(sorted(unknown))}; it has {', '.join(sorted(available))}",
            code=ErrorCode.STEM_UNKNOWN,
        )
