"""Whether a file is still the version that was begun, asked so that the answer comes right after its last bytes.

Parts of a file are all of one version when their answers begin; one that is overwritten while it is sent shows only to
whoever asks once more at the end. The server makes that answer after it has read the last bytes if it arrives after
them and was not held up on its way: the question may be asked before they come, so that it costs no time. When they
come can only be guessed, so it is asked again and again towards the end, over a few connections in turn.
"""

from __future__ import annotations

import threading
import time
from typing import Final

from pipeline.download.http.request import HttpClient, PendingRequest
from pipeline.download.http.watchdog import Cancellation
from pipeline.download.parallel.range_allocator import ByteRange
from pipeline.download.parallel.range_request import ask
from pipeline.download.sources import RangesLostError, Source, SourceChangedError
from pipeline.errors import PipelineError

#: A connection that has been waiting for so long, s, is given up: the other side may be about to, too.
PATIENCE: Final = 5.0
#: What is asked for, for the sake of the headers.
FIRST_BYTE: Final = ByteRange(0, 1)

#: Connections, each with one question on its way: one answer comes within a fraction of a round trip after the last.
_CONNECTIONS: Final = 4
#: That each of them asks in vain; whoever guesses so badly asks once more when it is over.
_QUESTIONS: Final = 10


class Witness:
    """Asks ``source`` for the version of its file. To be used from one thread, and to be dismissed."""

    def __init__(self, line: HttpClient, source: Source, total: int, *, round_trip: float) -> None:
        self._line = line
        self._source = source
        self._total = total
        self._round_trip = round_trip
        self._testimony = _Testimony()
        self._askers: list[_Asker] = []

    def connect(self) -> None:
        """Have connections ready, if there are none or they have been given up."""
        if any(asker.is_alive() for asker in self._askers):
            return
        self._askers = [
            _Asker(self._line, self._source, self._total, self._testimony, self._round_trip, number / _CONNECTIONS)
            for number in range(_CONNECTIONS)
        ]
        for asker in self._askers:
            asker.start()

    def ask(self) -> None:
        """Begin to ask again and again: the end is near."""
        self._testimony.wanted.set()

    def dismiss(self) -> None:
        """It is not needed (any more)."""
        self._testimony.wanted.set()
        self._testimony.over.set()
        for asker in self._askers:
            asker.dismiss()

    def confirms(self, last: float) -> bool:
        """Whether it knows that the file was the same at ``last`` (``time.monotonic``), when the last bytes came.

        Asks, and waits for an answer. Raises SourceChangedError.
        """
        self.ask()
        testimony = self._testimony
        testimony.over.set()
        with testimony.given:
            testimony.given.wait_for(
                lambda: testimony.settles(last) or not any(asker.is_asking for asker in self._askers)
            )
            if testimony.changed:
                raise SourceChangedError
            return testimony.latest >= last


class _Testimony:
    """What is asked and what the answers say. ``latest`` and ``changed`` are guarded by ``given``."""

    def __init__(self) -> None:
        self.wanted = threading.Event()
        """The end is near."""
        self.over = threading.Event()
        """The end is here."""
        self.given = threading.Condition()
        self.latest = 0.0
        """Bytes that came before this time, on the monotonic clock, are of the same version."""
        self.changed = False

    def settles(self, last: float) -> bool:
        """Whether no further answer is needed."""
        return self.changed or self.latest >= last


class _Asker(threading.Thread):
    """One connection: connects at once, begins to ask when it is wanted, and goes on until it is dismissed.

    ``offset``: how much later than wanted it begins, as a share of a round trip.
    """

    def __init__(
        self, line: HttpClient, source: Source, total: int, testimony: _Testimony, round_trip: float, offset: float
    ) -> None:
        super().__init__(name="download-witness", daemon=True)
        self._line = line
        self._source = source
        self._total = total
        self._testimony = testimony
        self._round_trip = round_trip
        self._offset = offset
        self._dismissal = Cancellation()
        self.is_asking = True
        """Whether it may still have something to say."""

    def dismiss(self) -> None:
        """Stop, at once."""
        self._dismissal.give()

    def run(self) -> None:
        """Connect, wait, and ask."""
        changed = False
        try:
            self._attend()
        except SourceChangedError:
            changed = True
        except (RangesLostError, PipelineError):
            pass  # then it does not know
        finally:
            with self._testimony.given:
                self._testimony.changed |= changed
                self.is_asking = False
                self._testimony.given.notify_all()

    def _attend(self) -> None:
        testimony = self._testimony
        first = self._line.approach(self._source, self._dismissal.watch, keep=True)
        approach: PendingRequest | None = first
        try:
            first.connect()
            if not testimony.wanted.wait(PATIENCE):
                return
            testimony.over.wait(self._offset * self._round_trip)
            for _ in range(_QUESTIONS):
                approach = self._ask(approach)
            if testimony.over.wait(PATIENCE):
                approach = self._ask(approach)
        finally:
            if approach is not None:
                approach.close()

    def _ask(self, approach: PendingRequest | None) -> PendingRequest | None:
        """Ask over ``approach``, if there is one. What the next question may use."""
        if approach is None or self._dismissal.given:
            return approach
        asked_at = time.monotonic()
        exchange, _ = ask(
            self._line,
            self._source,
            FIRST_BYTE,
            self._total,
            verified=False,
            on_start=self._dismissal.watch,
            approach=approach,
        )
        with exchange:
            exchange.read(FIRST_BYTE.size)
            following = exchange.again()
        testimony = self._testimony
        with testimony.given:
            # One that took longer was held up: it may have been made long before it came.
            testimony.latest = max(testimony.latest, min(time.monotonic(), asked_at + self._round_trip))
            testimony.given.notify_all()
        return following
