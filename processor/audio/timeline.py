"""Place decoded sound by its time stamps, with silence where sound is missing.

Time stamps are not believed without limit: those of some containers are rounded or jitter, and a damaged one may be
hours away from its neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass, field

#: The longest gap that is filled with silence, s, in files that declare no length; in others, a gap ends before it.
MAX_GAP = 300.0
_BEYOND_END = 0.5
#: The longest overlap that is cut, s. Stamps that go back further begin a new count, as in joined files.
_MAX_OVERLAP = 10.0
#: The difference to the place so far that counts as a gap or an overlap, s: at once, if it appears between two frames,
#: or if it has grown slowly, because the clock of the stamps differs from that of the samples.
_SUDDEN, _GRADUAL = 0.015, 0.1
#: The difference of stamps that count samples, s.
_EXACT = 0.0005
#: The rounding error of the difference between two stamps in ms, s.
_ROUNDED = 0.0011
#: The distance to the first stamp, s, within which stamps that go back begin a new count.
_RESTART = 0.5


@dataclass(frozen=True, slots=True)
class Clock:
    """What a container's time stamps are worth."""

    origin: float | None
    """The stamp of the beginning of the result, s; None: the first frame's."""
    declared_end: float | None
    """The stamp at which the sound ends according to the header, s."""
    counts_samples: bool
    """The stamps are exact."""
    gaps_are_damage: bool
    """A gap means that sound is missing from the file, and not that there was none."""


@dataclass(slots=True)
class Timeline:
    """The place in the result, s, and what was changed on the way. All lengths are in s."""

    clock: Clock
    position: float = 0.0
    delay: float = 0.0
    """Silence before the sound."""
    gaps: float = 0.0
    """Silence between sound, where the stamps leave a gap."""
    lost: float = 0.0
    """Silence instead of damaged sound."""
    overlaps: float = 0.0
    """Sound that was left out, because earlier sound has its place."""
    recounts: int = 0
    """The number of times at which the stamps began a new count."""
    _origin: float | None = field(init=False)
    _first: float | None = None
    _expected: float | None = None
    _pending: float = 0.0
    _is_cutting: bool = False
    """The last frame was left out at least in part; the next ones are as long as they overlap."""

    def __post_init__(self) -> None:
        self._origin = self.clock.origin

    @property
    def end(self) -> float:
        """The stamp of the end of the sound so far."""
        return (self._origin or 0.0) + self.position

    def lose(self, seconds: float) -> None:
        """Note that sound of about this length cannot be decoded."""
        self._pending += seconds

    def place(self, stamp: float | None, seconds: float) -> float:
        """Return the silence to insert before a frame, s; negative: the length to cut from its beginning.

        ``stamp`` of the frame and its length ``seconds``. The caller
        then moves ``position`` on.
        """
        lost, self._pending = self._pending, 0.0
        offset = lost
        if stamp is not None:
            offset = self._offset(stamp, seconds, lost)
            self._first = stamp if self._first is None else self._first
            self._expected = stamp + seconds
        elif self._expected is not None:
            self._expected += lost + seconds
        self._count(offset, lost, seconds)
        return offset

    def flush(self) -> float:
        """Return the silence instead of damaged sound at the end of the stream, s."""
        lost, self._pending = self._pending, 0.0
        self._count(lost, lost, 0.0)
        return lost

    def _offset(self, stamp: float, seconds: float, lost: float) -> float:
        if self._origin is None:
            self._origin = stamp - lost
        drift = stamp - self.end
        jump = drift if self._expected is None else stamp - self._expected
        if abs(drift - lost) <= self._tolerance(jump - lost):
            return lost
        if drift > 0 and not self._is_credible(drift, stamp):
            return self._recount(stamp, lost)
        if drift < 0 and (drift < -_MAX_OVERLAP or stamp < (self._first or 0.0) + _RESTART):
            return self._recount(stamp, lost)
        # Where stamps are rounded to milliseconds, whole frames are more exact.
        frames = round(drift / seconds) * seconds if seconds else drift
        return frames if abs(drift - frames) < _ROUNDED else drift

    def _is_credible(self, gap: float, stamp: float) -> bool:
        end = self.clock.declared_end
        return gap <= MAX_GAP if end is None else stamp <= end + _BEYOND_END

    def _tolerance(self, jump: float) -> float:
        if self.clock.counts_samples or self._is_cutting:
            return _EXACT
        return _SUDDEN if abs(jump) > _SUDDEN else _GRADUAL

    def _recount(self, stamp: float, lost: float) -> float:
        """Place the frame after the sound so far: its stamp belongs to another count."""
        self._origin = stamp - lost - self.position
        self._first = stamp
        self.recounts += 1
        return lost

    def _count(self, offset: float, lost: float, seconds: float) -> None:
        self._is_cutting = offset < 0
        if offset < 0:
            self.overlaps += min(-offset, seconds)
            return
        is_loss = lost > 0 or (self.clock.gaps_are_damage and self._has_begun)
        if is_loss:
            self.lost += offset
        elif self._has_begun:
            self.gaps += offset
        else:
            self.delay += offset

    @property
    def _has_begun(self) -> bool:
        return self.position > 0
