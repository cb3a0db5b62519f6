"""What is known of a stem in the end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

#: The contender that does nothing: the mixture itself taken for each of the stems.
MIXTURE: Final = "mixture"


@dataclass(frozen=True, slots=True)
class Scores:
    """Of one stem; None where a measure is not defined."""

    sdr: float | None = None
    """dB."""
    si_sdr: float | None = None
    """dB."""
    sir: float | None = None
    """dB; not defined where the other stems are silent."""
    leak: float | None = None
    """Energy of what should be silent, over that of the mixture, dB; of such stems there is nothing else."""


@dataclass(frozen=True, slots=True)
class Result:
    """One contender's stem of one song."""

    song: str
    """The title of its style, or of the song itself."""
    stem: str
    contender: str
    scores: Scores
