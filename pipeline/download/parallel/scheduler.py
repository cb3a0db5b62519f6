"""One file over several connections: who works, who stops, and what a failure means."""

from __future__ import annotations

import random
import time
from typing import Final

from config import MIB
from pipeline.backoff import Backoff
from pipeline.download.checksum import PrefixHash
from pipeline.download.http.request import ResponseStream
from pipeline.download.parallel.concurrency import WINDOW, ConnectionScaler
from pipeline.download.parallel.journal import Journal
from pipeline.download.parallel.range_allocator import ALIGNMENT
from pipeline.download.parallel.throughput import Latency, ThroughputEstimator
from pipeline.download.parallel.witness import PATIENCE, Witness
from pipeline.download.parallel.worker import Crew, RangeWorker
from pipeline.download.progress import ProgressReporter
from pipeline.download.sources import RangesLostError, Source, SourceChangedError, Sources
from pipeline.errors import CancelledError, InfrastructureError, PermanentError, TransientError
from pipeline.service.logs import get_logger

log = get_logger(__name__)

#: Tries in a row without progress, while no other connection delivers, until a source is given up.
MAX_STRIKES: Final = 5
#: A source that asks for a longer pause than this, s, is given up: whoever wants the file can come back.
LONGEST_PAUSE: Final = 15.0
#: A connection that is silent for so long, s, while another one has nothing to do, is replaced.
SILENT: Final = 2.0

#: Workers that fetch the same bytes at the same time, so that it need not be waited for what is lost on the way.
_RIVALS: Final = 3
#: Share of a file that may come more than once; then nothing is asked for twice any more.
_TWICE: Final = 1 / 16

#: From this latency on, s, connections are made before it is known how many of them help.
FAR: Final = 0.05
#: A file has as many spare connections as it has so many bytes, for so long, s, at most.
_SPARE_BYTES: Final = MIB
_SPARE_TIME: Final = 2.0
#: What a new connection is given would take it so long, s, if it brought nothing.
_TRIAL: Final = 0.5
#: Stealing must save so much, s.
_GAIN: Final = 0.02

_BACKOFF: Final = Backoff(base=0.2, cap=10.0)
#: Between two looks at how it goes, s, when nothing happens.
_TICK: Final = 0.02
_ROOM_INTERVAL: Final = 2.0


class RangedDownload:
    """Fetches what a crew's allotment lacks. Used once, from one thread."""

    def __init__(
        self,
        crew: Crew,
        sources: Sources,
        *,
        journal: Journal | None,
        reporter: ProgressReporter,
        prefix: PrefixHash | None,
        latency: Latency,
    ) -> None:
        self._crew = crew
        self._sources = sources
        self._journal = journal
        self._reporter = reporter
        self._prefix = prefix
        self._latency = latency.whole
        self._round_trip = latency.round_trip
        self._growth = ConnectionScaler(crew.line.limits.max_connections, patient=self._latency < FAR)
        self._not_before = 0.0
        self._started = self._room_checked = time.monotonic()
        self._pace = ThroughputEstimator(self._started, crew.received)
        self._refusals = 0
        self.most_connections = 0
        """That delivered at one time."""
        self.witness: Witness | None = None
        """Asks, where that takes long, whether the file is still the same: dismissed unless ``run`` returns."""

    def run(self, first: tuple[ResponseStream, int] | None) -> None:
        """Until nothing is missing. ``first``: an answer whose body begins where the first missing byte is.

        Raises SourceChangedError, RangesLostError and PipelineErrors; what is written stays written then.
        """
        try:
            self._start(first)
            if first and self._latency >= FAR:
                self._connect_ahead(first[0].source)
            while self._step():
                pass
        except BaseException:
            if self.witness:
                self.witness.dismiss()
            raise
        finally:
            self._dismiss_all()
            self._record()

    def _start(self, first: tuple[ResponseStream, int] | None = None) -> None:
        if first is None:
            self._crew.file.reserve()
        source = first[0].source if first else self._sources.current
        crew = self._crew
        with crew.changed:
            if first is None and self._call_idle(source):
                return
            worker = RangeWorker(crew, source, first)
            worker.start()
            crew.active.append(worker)

    def _call_idle(self, source: Source, rival: RangeWorker | None = None) -> bool:
        """Put the spare worker with the most lively connection to work, if there is one; ``rival`` as for
        ``RangeWorker.call``. The caller holds ``crew.changed``.
        """
        crew = self._crew
        for worker in reversed(crew.spare):
            if worker.source is source and not worker.dismissed:
                crew.spare.remove(worker)
                crew.active.append(worker)
                worker.call(rival)
                return True
        return False

    def _connect_ahead(self, source: Source) -> None:
        """Where it takes long to connect, do so while it is found out how many connections help."""
        crew = self._crew
        most = min(crew.line.limits.max_connections - 1, crew.allotment.missing // _SPARE_BYTES)
        with crew.changed:
            for _ in range(most):
                worker = RangeWorker(crew, source, spare=True)
                worker.start()
                crew.spare.append(worker)
        if not crew.verified:
            self.witness = Witness(crew.line, source, crew.total, round_trip=self._round_trip)
            self.witness.connect()

    def _dismiss_spares(self) -> None:
        with self._crew.changed:
            unused = [worker for worker in self._crew.spare if not worker.called]
        for worker in unused:
            worker.dismiss()

    def _step(self) -> bool:
        crew = self._crew
        with crew.changed:
            if not (crew.ended or crew.entries):
                crew.changed.wait(_TICK)
            ended, crew.ended = crew.ended, []
            missing, received = crew.allotment.missing, crew.received
            low_water = crew.allotment.low_water(crew.total)
        self._record()
        crew.line.watchdog.raise_if_fired()
        for worker in ended:
            worker.join()
            self._judge(worker)
        self._reporter.update(received)
        if self._prefix:
            self._prefix.advance(low_water)
        if missing:
            self._look_after(missing, received)
        else:
            self._dismiss_all()  # those that others were faster than
        return bool(missing or crew.active or crew.ended or crew.entries)

    def _record(self) -> None:
        with self._crew.changed:
            entries, self._crew.entries = self._crew.entries, []
        if self._journal and entries:
            self._journal.add(entries)

    def _look_after(self, missing: int, received: int) -> None:
        now = time.monotonic()
        with self._crew.changed:
            active = [worker for worker in self._crew.active if not worker.dismissed]
            delivering = sum(worker.delivering for worker in active)
            self._pace.see(now, received, delivering)
            wait = self._round_trip if self._crew.spare else self._latency
            self._crew.lead = int(self._pace.each * wait)
            self._crew.least = max(ALIGNMENT, int(self._pace.each * _GAIN))
        self.most_connections = max(self.most_connections, delivering)
        settled = delivering == len(active) >= self._growth.level
        # One connection that has begun to deliver shows its pace at once; several first have to come to theirs.
        window = WINDOW if self._growth.level == 1 else max(WINDOW, self._latency)
        self._growth.tick(now, received, missing, settled=settled, window=window)
        for worker in active[self._growth.level :]:  # the newest
            if self._latency < FAR:
                worker.retire()  # it has little left, and what is on its way to it would be lost
            else:
                worker.dismiss()
        self._staff(active, now)
        if self._growth.decided or now - self._started > _SPARE_TIME:
            self._dismiss_spares()
            self._ask_witness(active, missing, now)
        if now - self._room_checked > _ROOM_INTERVAL:
            self._room_checked = now
            self._crew.file.require_room(missing)

    def _ask_witness(self, active: list[RangeWorker], missing: int, now: float) -> None:
        """So that an answer comes just after the last bytes."""
        if not self.witness:
            return
        waits = [max(self._round_trip - (now - worker.quiet_since), 0.0) for worker in active if not worker.delivering]
        time_left = self._pace.time_left(missing, len(active) - len(waits), waits)
        if time_left <= PATIENCE / 2:
            self.witness.connect()
        if time_left <= self._round_trip + _TICK:
            self.witness.ask()

    def _staff(self, active: list[RangeWorker], now: float) -> None:
        """As many workers as may be and have something to do."""
        lacking = self._growth.level - len(active)
        if lacking > 1 and now >= self._not_before:
            with self._crew.changed:
                least, lead = self._crew.least, self._crew.lead
                self._crew.allotment.cut(lacking, least=least, lead=lead, most=self._most(len(active)))
        for _ in range(len(active), self._growth.level):
            with self._crew.changed:
                useful = self._crew.allotment.can_take(self._crew.least, self._crew.lead)
            if not useful:
                self._join_late(active, now)
                self._replace_silent(active, now)
                return
            if now < self._not_before:
                return
            self._start()

    def _most(self, active: int) -> int | None:
        """What a worker that is only tried out is given, in bytes, where it does not take long to ask for more."""
        if not self._growth.trying or self._latency >= FAR:
            return None
        return max(int(self._pace.each * active / self._growth.level * _TRIAL), ALIGNMENT)

    def _join_late(self, active: list[RangeWorker], now: float) -> None:
        """Have what is late asked for over idle connections as well: it may be here before what was lost on the way is
        sent again.
        """
        crew = self._crew
        with crew.changed:
            for worker in active:
                left = crew.allotment.joinable(worker, _RIVALS)
                if not left or not worker.is_late(left, now, self._round_trip):
                    continue
                enough = crew.twice > crew.total * _TWICE or len(crew.active) >= self._growth.level
                if enough or not self._call_idle(worker.source, worker):
                    return
                worker.joined_at = now

    def _replace_silent(self, active: list[RangeWorker], now: float) -> None:
        for worker in active:
            if now - worker.quiet_since > SILENT:
                worker.dismiss()

    def _judge(self, worker: RangeWorker) -> None:
        """What follows from the end of ``worker``."""
        error = worker.error
        if error is None or worker.dismissed or not worker.called:
            return
        expected = isinstance(error, RangesLostError | PermanentError | TransientError)
        if not expected or isinstance(error, SourceChangedError | CancelledError | InfrastructureError):
            raise error
        log.debug("download_connection_failed", url=worker.source.subject, error=str(error) or type(error).__name__)
        if worker.progress >= ALIGNMENT:
            worker.source.strikes = 0
            return
        pause = getattr(error, "retry_after", None) or 0.0
        with self._crew.changed:
            others = sum(not other.dismissed for other in self._crew.active)
        if others:
            # So many there were already, so that is not too many: one that was closed may still count over there.
            self._growth.refuse(max(others, self.most_connections))
            self._refusals += 1
            self._not_before = time.monotonic() + max(pause, _BACKOFF.delay(self._refusals, _RANDOM))
        else:
            self._strike(worker.source, error, pause)

    def _strike(self, source: Source, error: BaseException, pause: float) -> None:
        source.strikes += 1
        delay = max(pause, _BACKOFF.delay(source.strikes, _RANDOM))
        hopeless = isinstance(error, RangesLostError | PermanentError)
        if hopeless or source.strikes >= MAX_STRIKES or pause > LONGEST_PAUSE:
            self._give_up(source, error)
            delay = 0.0
        self._not_before = time.monotonic() + delay

    def _give_up(self, source: Source, error: BaseException) -> None:
        if self._sources.is_last(source):
            raise error
        log.warning("download_source_given_up", url=source.subject)
        self._sources.drop(source)

    def _dismiss_all(self) -> None:
        with self._crew.changed:
            workers = (*self._crew.active, *self._crew.spare)
        for worker in workers:
            worker.dismiss()
        for worker in workers:
            worker.join()


_RANDOM = random.Random()
