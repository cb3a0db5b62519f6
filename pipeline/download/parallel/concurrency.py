"""Find the number of connections that pays, by trying.

A source that limits each connection is several times faster over many. A source that limits all of them together, or a
saturated line, is not, and the smaller number is then kept. Only a trial shows which case it is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

#: Minimum time of a measurement, s: shorter ones reflect the grain of schedulers and traffic shapers.
WINDOW = 0.1
#: With less time than this to go, s, further connections cost more than they gain.
MIN_REMAINING = 0.25
#: The number of connections tried is the one that would finish the download within this time, s.
TARGET_REMAINING = 0.15
#: At this rate of each connection, bytes/s, further ones would only compete for this process's CPU.
FAST = 100e6
#: Maximum factor between two levels: data in flight on connections that turn out useless is lost.
MAX_STEP = 4
#: Minimum speed-up for which a trial succeeds.
MIN_GAIN = 1.25
#: Maximum wait for new connections to deliver before the trial is judged, s.
_PATIENCE = 3.0
#: Time until the next trial after a failed one, s; doubled each time.
_PAUSE = 5.0
#: Time after connections were closed, s, during which a lower rate is ignored: their data in flight is lost.
_SETTLE = 2.0
#: When the rate falls to this share of the last judged one, the judgement is outdated.
_COLLAPSE = 0.5


@dataclass(slots=True)
class _Trial:
    previous_level: int
    previous_rate: float
    """Bytes/s at that level."""
    deadline: float


class ConnectionScaler:
    """Decides ``level``, the number of connections, from 1 to ``max_level``."""

    def __init__(self, max_level: int, *, max_step: int = MAX_STEP) -> None:
        self._max_level = max(max_level, 1)
        self._max_step = max_step
        self.level = 1
        self.decided = False
        """Whether a rate was measured at least once."""
        self._trial: _Trial | None = None
        self._mark: tuple[float, int] | None = None
        self._next_trial = 0.0
        self._failed_trials = 0
        self._judged_rate = math.inf
        self._settled_at = 0.0

    @property
    def trying(self) -> bool:
        """The gain of the current level is still unknown."""
        return self._trial is not None

    def refuse(self, level: int) -> None:
        """Record that the source accepts no more than ``level`` connections."""
        self._max_level = self.level = max(1, min(level, self._max_level))
        self._trial = self._mark = None

    def tick(self, now: float, received: int, missing: int, *, settled: bool, window: float = WINDOW) -> None:
        """Measure the rate, and judge or begin a trial.

        ``now`` in s; ``received`` and ``missing``: bytes; ``settled``: all connections of this level deliver;
        ``window``: minimum time of the measurement, s, longer for a distant source.
        """
        if not settled and not (self._trial and now > self._trial.deadline):
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
        self.decided = True
        if self._trial is not None:
            self._judge(self._trial, rate, now)
        self._consider(rate, missing, now)

    def _judge(self, trial: _Trial, rate: float, now: float) -> None:
        self._trial = None
        self._judged_rate = rate
        previous = trial.previous_rate
        sufficient = math.ceil(trial.previous_level * rate / previous) if previous > 0 else self.level
        if rate < previous * MIN_GAIN:
            self.level = trial.previous_level
            self._next_trial = now + _PAUSE * 2**self._failed_trials
            self._failed_trials += 1
            self._judged_rate = min(rate, previous)
        elif sufficient < 0.6 * self.level:  # a limit shared by all connections was reached on the way
            self.level = max(math.ceil(sufficient * MIN_GAIN), trial.previous_level + 1)
            self._next_trial = now + _PAUSE
        else:
            return
        self._settled_at = now + _SETTLE
        self._mark = None

    def _consider(self, rate: float, missing: int, now: float) -> None:
        """Begin a trial with more connections if it can pay."""
        if now >= self._settled_at and rate < self._judged_rate * _COLLAPSE and self._judged_rate < math.inf:
            self._next_trial = now
            self._judged_rate = math.inf
        remaining = missing / rate if rate > 0 else math.inf
        if self.level >= self._max_level or now < self._next_trial:
            return
        if remaining < MIN_REMAINING or rate > FAST * self.level:
            return
        target = min(self.level * remaining / TARGET_REMAINING, self.level * self._max_step, self._max_level)
        self._trial = _Trial(self.level, rate, now + _PATIENCE)
        self.level = max(math.ceil(target), self.level + 1)
        self._mark = None
