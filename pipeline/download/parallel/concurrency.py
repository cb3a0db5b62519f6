"""How many connections help: tried out, kept only as long as they bring something.

A source that limits each connection is as many times faster over many; one that limits all of them together, or a line
that is full, is not, and is then left at the smaller number. Which one it is shows only by trying.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

#: Shortest time over which a rate is measured, s: less is ruled by the grain of the scheduler and of shapers.
WINDOW = 0.1
#: With less than this to go, s, further connections cost more than they bring.
WORTHWHILE = 0.25
#: As many connections are tried as it would take to be done within this time, s.
SOON = 0.15
#: Connections that bring so much each, bytes/s, are limited by nobody but us: further ones would share our processor.
FAST = 100e6
#: Times as many connections are tried next: what is on its way in those that turn out to be of no use is lost.
_STEP = 4
#: A trial must make it faster by this factor.
GAIN = 1.25
#: Longest wait for new connections to deliver before they are judged, s.
_PATIENCE = 3.0
#: Until the next trial after one that failed, s; doubled each time.
_PAUSE = 5.0
#: For so long after connections were given up, s, a lower rate tells nothing: what was on its way in them is lost.
_AFTERMATH = 2.0
#: A rate that falls to this share of what it was when it was judged tells that the judgement no longer holds.
_COLLAPSE = 0.5


@dataclass(slots=True)
class _Trial:
    before: int
    """Connections."""
    rate: float
    """Bytes/s with those."""
    until: float


class ConnectionScaler:
    """Decides ``level``, the number of connections, from 1 to ``most``."""

    def __init__(self, most: int, *, patient: bool = True) -> None:
        """``patient``: try few connections first; not for a source so far away that each trial takes long."""
        self.level = 1
        self.decided = False
        """Whether it has been seen, once at least, how fast it goes."""
        self._step = _STEP if patient else most
        self._most = max(most, 1)
        self._trial: _Trial | None = None
        self._mark: tuple[float, int] | None = None
        self._next_trial = 0.0
        self._failed_trials = 0
        self._judged_rate = math.inf
        self._aftermath = 0.0

    @property
    def trying(self) -> bool:
        """Whether it is not known yet if this level is of any use."""
        return self._trial is not None

    def refuse(self, level: int) -> None:
        """The source wants no more than ``level`` connections."""
        self._most = self.level = max(1, min(level, self._most))
        self._trial = self._mark = None

    def tick(self, now: float, received: int, missing: int, *, settled: bool, window: float = WINDOW) -> None:
        """Look at how it goes.

        ``now`` in s; ``received``: bytes in all so far; ``missing``: bytes to go; ``settled``: all connections of this
        level deliver; ``window``: least time in s to measure over, longer where the answers take longer.
        """
        if not settled and not (self._trial and now > self._trial.until):
            self._mark = None
            return
        if self._mark is None:
            self._mark = (now, received)
            return
        seconds = now - self._mark[0]
        if seconds < max(window, WINDOW):
            return
        rate = (received - self._mark[1]) / seconds
        self._mark = (now, received)
        if self._trial is not None:
            self._judge(self._trial, rate, now)
        self._consider(rate, missing, now)

    def _judge(self, trial: _Trial, rate: float, now: float) -> None:
        self._trial = None
        self._judged_rate = rate
        helpful = math.ceil(trial.before * rate / trial.rate) if trial.rate > 0 else self.level
        if rate < trial.rate * GAIN:
            self.level = trial.before
            self._next_trial = now + _PAUSE * 2**self._failed_trials
            self._failed_trials += 1
            self._judged_rate = min(rate, trial.rate)
            self._aftermath = now + _AFTERMATH
            self._mark = None
        elif helpful < 0.6 * self.level:
            # Fewer would do as well: a limit that they share was met on the way.
            self.level = max(math.ceil(helpful * GAIN), trial.before + 1)
            self._next_trial = now + _PAUSE
            self._aftermath = now + _AFTERMATH
            self._mark = None

    def _consider(self, rate: float, missing: int, now: float) -> None:
        self.decided = True
        if now >= self._aftermath and rate < self._judged_rate * _COLLAPSE and self._judged_rate < math.inf:
            self._next_trial = now
            self._judged_rate = math.inf
        seconds_left = missing / rate if rate > 0 else math.inf
        if self.level >= self._most or now < self._next_trial or seconds_left < WORTHWHILE or rate > FAST * self.level:
            return
        # As many as would be done within that time if each were as fast as those so far.
        wanted = min(self.level * seconds_left / SOON, self.level * self._step, self._most)
        self._trial = _Trial(self.level, rate, now + _PATIENCE)
        self.level = max(math.ceil(wanted), self.level + 1)
        self._mark = None
