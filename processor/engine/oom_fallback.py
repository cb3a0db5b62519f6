"""Fallback when a song does not fit into memory.

These steps are tried in order:

0. the same separator once more, after models that the song does not need were evicted from the cache;
1. the separator's variants with less memory, see ``Separator.reduce_memory``: smaller batches, then shorter segments;
2. the song in overlapping chunks, each separated as a song of its own, see ``processor.separation.chunked``;

then the job fails. Every attempt starts at the song's first sample and keeps nothing of the previous one. The next song
starts without any reduction: songs differ in length, and other processes on the device come and go. A separator that
holds a few segments at a time runs out of memory at the first of them, so that a failed attempt costs little.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from pipeline.errors import ErrorCode, PipelineError, TransientError
from pipeline.service.logs import get_logger
from processor.audio.wav import SAMPLE_RATE
from processor.separation.chunked import ChunkedSeparator
from processor.separation.separator import Separator
from processor.system.oom import is_out_of_memory

log = get_logger(__name__)

T = TypeVar("T")

#: Lengths of chunks, in the order in which they are tried, s. The shortest is about one segment of a Roformer.
CHUNK_SECONDS = (30, 10)


@dataclass(frozen=True, slots=True)
class FallbackStep:
    """One way to run a model over a song."""

    reductions: tuple[str, ...]
    """All reductions of this step, in order, as clients receive them in ``degraded``. The first step has none."""
    separator: Separator


def fallback_steps(separator: Separator, frames: int) -> Iterator[FallbackStep]:
    """Yield the steps for a song of ``frames``, from the separator as it is to the one with the least memory."""
    reductions: tuple[str, ...] = ()
    yield FallbackStep(reductions, separator)
    while (reduced := separator.reduce_memory()) is not None:
        separator, reductions = reduced.separator, (*reductions, reduced.step)
        yield FallbackStep(reductions, separator)
    for seconds in CHUNK_SECONDS:
        if frames > seconds * SAMPLE_RATE:
            chunked = ChunkedSeparator(separator, seconds * SAMPLE_RATE)
            yield FallbackStep((*reductions, f"chunks_{seconds}s"), chunked)


class OomFallback:
    """The attempts of one job, which may use several models."""

    def __init__(self, free_memory: Callable[[], bool]) -> None:
        """``free_memory`` frees memory that is not needed now and returns whether another attempt may fit."""
        self._free_memory = free_memory
        self._reductions: dict[str, None] = {}

    @property
    def reductions(self) -> tuple[str, ...]:
        """The reductions with which the job's models succeeded."""
        return tuple(self._reductions)

    def run(self, separator: Separator, frames: int, attempt: Callable[[Separator], T]) -> T:
        """Return ``attempt(separator)``, which separates a song of ``frames`` with the separator that it receives.

        Raises TransientError (``out_of_memory``) if memory ran out at every attempt: on another machine or at a later
        time there may be more. Raises what else ``attempt`` raises.
        """
        for step in fallback_steps(separator, frames):
            while True:
                try:
                    outcome = attempt(step.separator)
                except PipelineError:
                    raise
                except Exception as error:  # the libraries raise many types; only out-of-memory errors are handled
                    if not is_out_of_memory(error):
                        raise
                    message = str(error)[:200] or type(error).__name__
                else:
                    if step.reductions:
                        log.warning("separated_with_less_memory", steps=list(step.reductions))
                    self._reductions |= dict.fromkeys(step.reductions)
                    return outcome
                # After the handler, when the exception is gone: its traceback refers to the tensors of the attempt.
                log.warning("out_of_memory", steps=list(step.reductions), error=message)
                if not self._free_memory():
                    break
        raise TransientError(
            "there is not enough memory to separate this song, not even in short chunks", code=ErrorCode.OUT_OF_MEMORY
        )
