"""Executes a run from start to end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from tests.chaos.audit.final_state import drain, record_final_state
from tests.chaos.audit.ledger import Ledger, Phase, Reference, RunFailed
from tests.chaos.audit.ledger_index import LedgerIndex, body_of
from tests.chaos.faults import Injector
from tests.chaos.load import Load
from tests.chaos.schedule import SONGS, PlannedJob, Schedule
from tests.chaos.system.supervisor import Supervisor
from tests.chaos.system.system import System, SystemOptions
from tests.e2e.audio import check_stems, song

_REFERENCE_SECONDS = 180.0
#: Maximum time after the last fault until all jobs are accepted, s.
_ACCEPT_TIMEOUT = 60.0
_LOOK_SECONDS = 0.2


class Run:
    """One run in its own folder. All events are recorded in the ledger."""

    def __init__(self, options: SystemOptions, ledger: Ledger, report_phase: Callable[[str], None]) -> None:
        """``report_phase`` is called with the name of each phase."""
        self._ledger = ledger
        self._report_phase = report_phase
        self._recordings = {name: song(seconds) for name, seconds in SONGS.items()}
        files = {name: recording.file for name, recording in self._recordings.items()}
        self._system = System(options, ledger, files)

    def execute(self, schedule: Schedule, *, drain: float) -> None:
        """Execute the run. ``drain``: maximum wait for the last jobs, s.

        Raises DevstackError or TimeoutError if the system does not start.
        """
        self._begin_phase("start")
        with self._system as system:
            with Supervisor(system):
                self._begin_phase("reference")
                self._take_references()
                self._begin_phase("faults")
                self._inject_faults(schedule)
                self._begin_phase("drain")
                self._drain(drain)
            self._begin_phase("stock-taking")
            record_final_state(system)
        self._begin_phase("end")

    def _begin_phase(self, phase: str) -> None:
        self._report_phase(phase)
        self._ledger.add(Phase(name=phase))

    def _take_references(self) -> None:
        """Separate each song once without faults; later results must be identical."""
        load = self._load("reference")
        load.run([PlannedJob(0, 0.0, name, 3, "") for name in SONGS])
        deadline = time.monotonic() + _REFERENCE_SECONDS
        while len(LedgerIndex(self._ledger.entries).delivered) < len(SONGS):
            if time.monotonic() > deadline:
                raise TimeoutError("the songs are not separated although there are no faults")
            time.sleep(_LOOK_SECONDS)
        index = LedgerIndex(self._ledger.entries)
        for webhook in index.delivered.values():
            name, body = index.song_of(webhook), body_of(webhook)
            assert name is not None
            check_stems(body, self._recordings[name])
            stems = {stem["name"]: (stem["sha256"], stem["bytes"]) for stem in body["stems"]}
            self._ledger.add(Reference(song=name, stems=stems))

    def _load(self, name: str) -> Load:
        proxies = self._system.proxies
        hook_url = f"{proxies['receiver'].url}/hook"
        return Load(self._ledger, proxies["api"].url, source_url=proxies["source"].url, hook_url=hook_url, name=name)

    def _inject_faults(self, schedule: Schedule) -> None:
        """Run the load while the faults of the schedule are injected."""
        load, injector = self._load("post"), Injector(self._system)
        clients = threading.Thread(target=load.run, args=(schedule.jobs,), name="load")
        clients.start()
        try:
            injector.run(schedule)
            clients.join(_ACCEPT_TIMEOUT)
        finally:
            if clients.is_alive():
                self._ledger.add(RunFailed(what=f"jobs are not accepted {_ACCEPT_TIMEOUT:.0f} s after the last fault"))
            load.stop()
            clients.join()

    def _drain(self, timeout: float) -> None:
        if not drain(self._system, timeout):
            self._ledger.add(RunFailed(what=f"{timeout:.0f} s after the last fault some jobs are not finished"))
