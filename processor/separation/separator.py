"""The interface of a loaded model that separates one mixture into stems, and its memory-reduction variants.

Each architecture has its own separator:

* ``mdx``: MDX networks, in constant memory;
* ``mdxc``: MDX23C models and Roformers, in constant memory;
* ``vr``: VR networks, in constant memory, except those that process the time-reversed song;
* ``demucs``: Demucs models, in constant memory;
* ``fallback``: every other model, through audio-separator's own loops, with the whole song in memory;
* ``chunked``: any of these, applied to one chunk of the song at a time.

A separator knows its model. It does not know jobs, output levels or the destination of the stems.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

from processor.audio.wav import Samples

OnProgress = Callable[[float], None]
"""Receives the completed share of the work, 0 to 1. Raises CancelledError to stop the work."""

Write = Callable[[str, Samples], None]
"""Receives the next block ``(frames, channels)`` of the stem with that name (see ``pipeline.stem_name``)."""


class Separator(Protocol):
    """One loaded model."""

    @property
    def device(self) -> str:
        """The kind of device that the model runs on: ``cpu``, ``cuda`` or ``mps``."""

    @property
    def stems(self) -> frozenset[str] | None:
        """The stems that every run writes; None if they are known only after a run."""

    def separate(self, mixture: Path, write: Write, on_progress: OnProgress) -> None:
        """Separate ``mixture`` (WAV, 44.1 kHz, stereo, peak 1.0) into stems of the same length and scale.

        Raises what ``write`` and ``on_progress`` raise, ValueError for samples that cannot be separated,
        StemMissingError, and any error of the libraries.
        """

    def only(self, wanted: Collection[str]) -> Separator:
        """Return the same loaded model, restricted to the ``wanted`` stems, which must be some of its own.

        These stems are unchanged, sample for sample, and take less time where work can be skipped. ``stems`` names
        what the restricted separator writes, which may still include other stems.
        """

    def reduce_memory(self) -> ReducedSeparator | None:
        """Return the same loaded model in a variant that needs less memory; None if there is no further variant.

        Each call reduces memory by one step: the returned separator may offer another step.
        """


@dataclass(frozen=True, slots=True)
class ReducedSeparator:
    """A variant of a model's separator that needs less memory."""

    step: str
    """The reduction, as clients receive it in ``degraded``: ``batch_1``, ``segment_half``."""
    separator: Separator


class BaseSeparator:
    """Defaults for separators that always write all their stems and have no variant with less memory."""

    def only(self, wanted: Collection[str]) -> Self:
        """See ``Separator``. Returns itself: leaving out a stem would save no work."""
        return self

    def reduce_memory(self) -> ReducedSeparator | None:
        """See ``Separator``. Returns None: there is no variant with less memory."""
        return None


def partial_progress(on_progress: OnProgress, number: int, total: int) -> OnProgress:
    """Return the progress callback of part ``number`` (from 0) of ``total`` equal parts of the work."""
    return lambda fraction: on_progress((number + fraction) / total)


def monotonic_progress(on_progress: OnProgress) -> OnProgress:
    """Return a progress callback that never reports less than before, as when work is repeated or loops twice."""
    reported = 0.0

    def report(fraction: float) -> None:
        nonlocal reported
        reported = max(reported, fraction)
        on_progress(reported)

    return report
