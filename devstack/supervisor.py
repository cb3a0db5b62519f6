"""Restart services and servers that end while the stack runs."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from devstack.errors import ServerStartError
from devstack.processes.process import ServerProcess
from devstack.processes.server import LocalServer
from pipeline.service.shutdown import ExitCode

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.2
#: Longest delay of a restart, s.
_LAST_DELAY = 30.0
#: A process that was ready for this time starts over with the first delay, s.
_STABLE_SECONDS = 60.0
#: A process that fails so many restarts one after the other ends the stack.
MAX_FAILED_STARTS = 5
#: These exit statuses need a person: another start fails in the same way.
_FINAL = (ExitCode.CONFIG, ExitCode.REFUSED)


@dataclass
class Member:
    """A supervised process and its history."""

    process: ServerProcess | LocalServer
    state: str = "running"
    """running, waiting (for its restart) or starting"""
    restarts: int = 0
    last_end: str | None = None
    """How it ended the last time, such as "was killed by SIGKILL"."""
    ready_since: float = field(default_factory=time.monotonic)
    ends: int = 0
    """Ends since it was last stable."""
    failed_starts: int = 0
    """Restarts that have failed since one succeeded."""


class ServiceSupervisor:
    """Restarts processes that end, each in a thread of its own, until the block is left.

    The processes run when the block is entered, and may be stopped when it is left. `on_change` is called, from any
    thread, when a state has changed. `first_delay`: the delay of the first restart, s; each further one doubles it.
    """

    def __init__(
        self,
        processes: Mapping[str, ServerProcess | LocalServer],
        on_change: Callable[[], None] = lambda: None,
        *,
        first_delay: float = 1.0,
    ) -> None:
        self._first_delay = first_delay
        self.members = {name: Member(process) for name, process in processes.items()}
        self._on_change = on_change
        self._stopping = threading.Event()
        self._failure: ServerStartError | None = None
        self._threads = {
            name: threading.Thread(target=self._watch, args=(name, member), name=f"supervise-{name}")
            for name, member in self.members.items()
        }

    def __enter__(self) -> Self:
        for thread in self._threads.values():
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        for name, thread in self._threads.items():
            while thread.is_alive():
                if self.members[name].state == "starting":
                    self.members[name].process.kill()  # ends the wait for its readiness
                thread.join(_POLL_SECONDS)

    def require_running(self) -> None:
        """Raise ServerStartError if a process cannot be started again."""
        if self._failure is not None:
            raise self._failure

    def _watch(self, name: str, member: Member) -> None:
        while not self._stopping.wait(_POLL_SECONDS):
            if not member.process.running and not self._restarted(name, member):
                return

    def _restarted(self, name: str, member: Member) -> bool:
        """Start the process again after a delay; return False if that must not or need not be repeated."""
        ending = member.last_end = member.process.ending
        if member.process.exit_code in _FINAL:
            self._failure = ServerStartError(f"{name} {ending}; {member.process.log_tail()}")
            return False
        stable = time.monotonic() - member.ready_since > _STABLE_SECONDS
        member.ends = 1 if stable and not member.failed_starts else member.ends + 1
        delay = min(_LAST_DELAY, self._first_delay * 2 ** (member.ends - 1))
        logger.warning("%s %s; it is started again in %.0f s", name, ending, delay)
        if (member.process.exit_code or 0) > 0:
            logger.warning("%s", member.process.log_tail())
        self._change(member, "waiting")
        if self._stopping.wait(delay):
            return False
        member.restarts += 1
        self._change(member, "starting")
        return self._started(member)

    def _started(self, member: Member) -> bool:
        """Start the process; return False if it has failed too often or the supervision ends."""
        try:
            member.process.start()
        except ServerStartError as error:
            if self._stopping.is_set():
                return False
            member.failed_starts += 1
            if member.failed_starts >= MAX_FAILED_STARTS:
                self._failure = error
                return False
            logger.warning("%s", error)
            return True
        member.failed_starts, member.ready_since = 0, time.monotonic()
        self._change(member, "running")
        return True

    def _change(self, member: Member, state: str) -> None:
        member.state = state
        self._on_change()
