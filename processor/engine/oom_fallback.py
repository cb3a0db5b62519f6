"""What is tried when memory runs out under a song, one rung after the other:

0. the same once more, when the models that the song does not need have been dropped from the pool;
1. what the model's driver has in lighter versions, see ``Separator.lighter``: smaller batches, then shorter segments;
2. the song in overlapping chunks, each separated as a song of its own, see ``processor.separation.chunked``;

and then the job fails. Every try begins with the song's first sample, and nothing is left of the one before it. The
next song starts at the top again: songs differ in length, neighbours on the device come and go, and a driver that holds
a few segments at a time finds out at the first of them, so that trying again costs little.
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

#: Lengths of chunks that are tried in turn, s. The shortest is about what a Roformer model hears at a time.
CHUNK_SECONDS = (30, 10)


@dataclass(frozen=True, slots=True)
class FallbackStep:
    """One way to run a model over a song."""

    steps: tuple[str, ...]
    """What was given up for it, in order, as clients are told of it: nothing at the top."""
    separator: Separator


def fallback_steps(separator: Separator, frames: int) -> Iterator[FallbackStep]:
    """From the model as it is to the lightest way that there is, for a song of so many ``frames``."""
    steps: tuple[str, ...] = ()
    yield FallbackStep(steps, separator)
    while (lighter := separator.lighter()) is not None:
        separator, steps = lighter.separator, (*steps, lighter.step)
        yield FallbackStep(steps, separator)
    for seconds in CHUNK_SECONDS:
        if frames > seconds * SAMPLE_RATE:
            yield FallbackStep((*steps, f"chunks_{seconds}s"), ChunkedSeparator(separator, seconds * SAMPLE_RATE))


class OomFallback:
    """The tries of one job, whose models may be several."""

    def __init__(self, make_room: Callable[[], bool]) -> None:
        """``make_room`` gives memory back that is not needed now; true if the same may fit after that."""
        self._make_room = make_room
        self._steps: dict[str, None] = {}

    @property
    def steps(self) -> tuple[str, ...]:
        """Of the rungs that the job's models ended on."""
        return tuple(self._steps)

    def run(self, separator: Separator, frames: int, attempt: Callable[[Separator], T]) -> T:
        """What ``attempt`` returns, which separates a song of so many ``frames`` with the driver that it is given.

        Raises TransientError (``out_of_memory``) if memory ran out at every try: by the next one, elsewhere or later,
        there may be more. And what else ``attempt`` raises.
        """
        for rung in fallback_steps(separator, frames):
            outcome = self._tried(rung, attempt)
            if not isinstance(outcome, _Exhausted):
                self._steps |= dict.fromkeys(rung.steps)
                return outcome
        raise TransientError(
            "there is not enough memory to separate this song, not even in short chunks", code=ErrorCode.OUT_OF_MEMORY
        )

    def _tried(self, rung: FallbackStep, attempt: Callable[[Separator], T]) -> T | _Exhausted:
        """One rung: a second time if others had to make room for it."""
        outcome = _attempted(rung, attempt)
        while isinstance(outcome, _Exhausted):
            log.warning("memory_ran_out", steps=list(rung.steps), error=outcome.said)
            if not self._make_room():
                return outcome
            outcome = _attempted(rung, attempt)
        if rung.steps:
            log.warning("separated_with_less_memory", steps=list(rung.steps))
        return outcome


@dataclass(frozen=True, slots=True)
class _Exhausted:
    """A try for which there was not enough memory."""

    said: str


def _attempted(rung: FallbackStep, attempt: Callable[[Separator], T]) -> T | _Exhausted:
    try:
        return attempt(rung.separator)
    except PipelineError:
        raise
    except Exception as error:  # the boundary: of all that the libraries raise, these alone
        if not is_out_of_memory(error):
            raise
        # The error itself would keep the tensors of all the calls that it came through.
        return _Exhausted(str(error)[:200] or type(error).__name__)
