"""The scores of the stems."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

#: The baseline contender: the unchanged mixture as the estimate of each stem.
MIXTURE: Final = "mixture"


@dataclass(frozen=True, slots=True)
class Scores:
    """The scores of one stem; None where a measure is not defined."""

    sdr: float | None = None
    """dB."""
    si_sdr: float | None = None
    """dB."""
    sir: float | None = None
    """dB; not defined where the other stems are silent."""
    leak: float | None = None
    """Energy of a stem that should be silent, relative to the mixture's, dB. Such stems have no other score."""


@dataclass(frozen=True, slots=True)
class Result:
    """One contender's stem of one song."""

    song: str
    """The title of the song's style, or of the song itself."""
    stem: str
    contender: str
    scores: Scores
