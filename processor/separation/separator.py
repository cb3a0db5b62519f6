"""What runs a loaded model over a song. One driver for each architecture that we drive ourselves:

* ``mdx``: MDX networks, in constant memory;
* ``mdxc``: MDX23C models and Roformers, in constant memory;
* ``vr``: VR networks, in constant memory, but for those that hear a song backwards;
* ``demucs``: Demucs models, in constant memory;
* ``stock``: what the others decline, as audio-separator does it, the song in memory;
* ``chunked``: any of these, over a song in chunks.

A driver knows a model, and neither jobs nor levels nor where stems go.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from processor.audio.wav import Samples

OnProgress = Callable[[float], None]
"""Takes the share that is done, 0 to 1; raises CancelledError to stop the work."""

Write = Callable[[str, Samples], None]
"""Takes the next block ``(frames, channels)`` of the stem of that name (see ``stem_key``)."""


class Separator(Protocol):
    """One loaded model."""

    @property
    def device(self) -> str:
        """The kind of what the model runs on: ``cpu``, ``cuda``, ``mps``."""

    @property
    def stems(self) -> frozenset[str] | None:
        """The stems that every run gives; None if only a run can tell."""

    def separate(self, mixture: Path, write: Write, on_progress: OnProgress) -> None:
        """Separate ``mixture`` (WAV, 44.1 kHz, stereo, peak 1.0): each stem is as long, and at the same scale.

        Raises what ``write`` and ``on_progress`` raise, ValueError for samples that cannot be separated,
        StemMissingError, and whatever the libraries raise.
        """

    def only(self, wanted: Collection[str]) -> Separator:
        """The same model, loaded once, for songs of which no other stems than these are ``wanted``, some of its own.

        It gives the same samples of them, in less time if there is something to leave out. Whether it gives the others
        is not to be relied on; ``stems`` has those that it does give.
        """

    def lighter(self) -> ReducedSeparator | None:
        """The same model, loaded once, run such that it needs somewhat less memory; None if it has no such way.

        One step at a time: the lighter driver may have a lighter one again.
        """


@dataclass(frozen=True, slots=True)
class ReducedSeparator:
    """A driver that needs less memory than another one of the same model."""

    step: str
    """What was given up, as clients are told of it among ``degraded``: ``batch_1``, ``segment_half``."""
    separator: Separator
