"""A run from its beginning to its end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from tests.chaos.aftermath import drain, take_stock
from tests.chaos.books import Books, body_of
from tests.chaos.faults import Injector
from tests.chaos.ledger import Failed, Ledger, Phase, Reference
from tests.chaos.load import Load
from tests.chaos.schedule import SONGS, PlannedJob, Schedule
from tests.chaos.supervisor import Supervisor
from tests.chaos.system import Place, System
from tests.e2e.audio import check_stems, song

_REFERENCE_SECONDS = 180.0
#: How long after the last fault all jobs must have been accepted, s.
_LAST_ANSWERS = 60.0
_LOOK_SECONDS = 0.2


class Run:
    """One run in a folder of its own. Everything of note is in the ledger."""

    def __init__(self, place: Place, ledger: Ledger, say: Callable[[str], None]) -> None:
        """``say``: is told of each phase."""
        self._ledger = ledger
        self._say = say
        self._recordings = {name: song(seconds) for name, seconds in SONGS.items()}
        files = {name: recording.file for name, recording in self._recordings.items()}
        self._system = System(place, ledger, files)

    def carry_out(self, schedule: Schedule, *, drain: float) -> None:
        """All of it. ``drain``: longest wait for the last jobs, s.

        Raises DevstackError or TimeoutError if the system does not start.
        """
        self._begin("start")
        with self._system as system:
            with Supervisor(system):
                self._begin("reference")
                self._take_references()
                self._begin("faults")
                self._break(schedule)
                self._begin("drain")
                self._drain(drain)
            self._begin("stock-taking")
            take_stock(system)
        self._begin("end")

    def _begin(self, phase: str) -> None:
        self._say(phase)
        self._ledger.add(Phase(name=phase))

    def _take_references(self) -> None:
        """Each song once, with nothing broken: what comes back then is what has to come back ever after."""
        load = self._load("reference")
        load.run([PlannedJob(0, 0.0, name, 3, "") for name in SONGS])
        deadline = time.monotonic() + _REFERENCE_SECONDS
        while len(Books(self._ledger.entries).delivered) < len(SONGS):
            if time.monotonic() > deadline:
                raise TimeoutError("the songs are not separated although nothing is broken")
            time.sleep(_LOOK_SECONDS)
        books = Books(self._ledger.entries)
        for told in books.delivered.values():
            name, body = books.song_of(told), body_of(told)
            assert name is not None
            check_stems(body, self._recordings[name])
            stems = {stem["name"]: (stem["sha256"], stem["bytes"]) for stem in body["stems"]}
            self._ledger.add(Reference(song=name, stems=stems))

    def _load(self, name: str) -> Load:
        proxies = self._system.proxies
        hook_url = f"{proxies['receiver'].url}/hook"
        return Load(self._ledger, proxies["api"].url, source_url=proxies["source"].url, hook_url=hook_url, name=name)

    def _break(self, schedule: Schedule) -> None:
        """Jobs flow while the faults of the schedule come and go."""
        load, injector = self._load("post"), Injector(self._system)
        clients = threading.Thread(target=load.run, args=(schedule.jobs,), name="load")
        clients.start()
        try:
            injector.run(schedule)
            clients.join(_LAST_ANSWERS)
        finally:
            if clients.is_alive():
                self._ledger.add(Failed(what=f"jobs are not accepted {_LAST_ANSWERS:.0f} s after the last fault"))
            load.stop()
            clients.join()

    def _drain(self, patience: float) -> None:
        if not drain(self._system, patience):
            self._ledger.add(Failed(what=f"{patience:.0f} s after the last fault there are jobs that are not over"))
