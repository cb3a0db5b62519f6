"""Correctness of each client on a faulty server, on a full disk, and after being killed."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from enum import StrEnum
from statistics import mean
from typing import Final

from benchmarks.download.clients import Client, ClientLimits
from benchmarks.download.laboratory import Job, Laboratory
from benchmarks.download.measure import Measured
from benchmarks.download.rows import log_progress
from benchmarks.download.sandbox import has_namespaces, small_disk
from benchmarks.download.server.misbehaviour import BOMB_BYTES, LIE, bomb_file
from benchmarks.download.server.profile import MIB, Profile

LIMITS: Final = ClientLimits(stall=3.0, total=10.0, max_bytes=64 * MIB)
"""Passed to every client that has an option for it."""
PATIENCE: Final = 15.0
"""Time after which a client counts as hung, s."""
SIZE: Final = 24 * MIB
QUICK_SIZE: Final = 12 * MIB
KILLS: Final = 20
QUICK_KILLS: Final = 2

#: Slow enough that a fault meets several connections, and a kill meets a running download.
_RATE = 8 * MIB
_KILLED_PROFILE = Profile(SIZE, rate=6 * MIB, shared_rate=24 * MIB)
_KILLED_TIMEOUT = 60.0
_ATTEMPTS = 5
#: Clients that run at the same time: nothing is timed here, and they mostly wait.
_CONCURRENCY = 8


class Verdict(StrEnum):
    """The kind of outcome of a download."""

    RIGHT = "right bytes"
    ERROR = "clear error"
    WRONG = "WRONG BYTES"
    SWALLOWED = "swallowed"
    """More bytes than the limit, without an error."""
    HUNG = "hung"


@dataclass(frozen=True, slots=True)
class Ending:
    """The outcome of a download, with a short detail."""

    verdict: Verdict
    detail: str = ""

    def __str__(self) -> str:
        text = f"**{self.verdict}**" if self.verdict in (Verdict.WRONG, Verdict.SWALLOWED) else str(self.verdict)
        return f"{text} ({self.detail})" if self.detail else text


@dataclass(frozen=True, slots=True)
class Fault:
    """One row of the table."""

    title: str
    profile: Profile
    accepted: Callable[[Laboratory, int], frozenset[str]]
    """Returns the hashes of the right results, given the size of the file."""
    checksum: bool = False
    """Pass the SHA-256 to clients that can verify it."""
    small_disk: bool = False


def _old(laboratory: Laboratory, size: int) -> frozenset[str]:
    return frozenset((laboratory.hash("old", size),))


def _old_or_new(laboratory: Laboratory, size: int) -> frozenset[str]:
    return frozenset((laboratory.hash("old", size), laboratory.hash("new", size)))


def _as_announced(laboratory: Laboratory, size: int) -> frozenset[str]:
    # For HTTP, a length that is too short is the length.
    return frozenset((laboratory.hash("old", size - LIE),))


def _as_sent(laboratory: Laboratory, size: int) -> frozenset[str]:
    return frozenset((hashlib.sha256(bomb_file()).hexdigest(),))


def _nothing(laboratory: Laboratory, size: int) -> frozenset[str]:
    return frozenset()


def _profile(fault: str, rate: int = _RATE) -> Profile:
    return Profile(SIZE, rate=rate, fault=fault)


FAULTS: Final = (
    Fault("replaced after two answers, as long, new ETag", _profile("replaced"), _old_or_new),
    Fault("replaced half way, connections cut", _profile("replaced-and-cut"), _old_or_new),
    Fault("one 206, then 200 to every range", _profile("forced-200"), _old),
    Fault("a byte flipped once, SHA-256 given where there is an option", _profile("flipped"), _old, checksum=True),
    Fault("a byte flipped once, the server sends Repr-Digest", _profile("flipped-digest"), _old),
    Fault("every answer cut after 5 MB", _profile("cut"), _old),
    Fault("the first answer stalls half way", _profile("stall"), _old),
    Fault("every answer drips, 4 bytes/s", _profile("drip"), _old),
    Fault(f"gzip bomb, {BOMB_BYTES // MIB} MiB; right is the file as it is sent", _profile("bomb"), _as_sent),
    Fault("endless body", _profile("endless", 16 * MIB), _nothing),
    Fault("length too long by 1000", _profile("too-long"), _old),
    Fault("length too short by 1000", _profile("too-short"), _as_announced),
    Fault("length -1", _profile("negative"), _old),
    Fault("disk full", _profile(""), _old, small_disk=True),
)


def run_faults(laboratory: Laboratory, clients: Sequence[Client], size: int) -> list[list[Ending]]:
    """Run every fault with every client. Returns a row per fault with an outcome per client."""

    def cell(pair: tuple[Fault, Client]) -> Ending:
        ending = _run_fault(laboratory, *pair, size)
        log_progress(f"{pair[0].title}: {pair[1].name}: {ending}")
        return ending

    with ThreadPoolExecutor(_CONCURRENCY) as pool:
        endings = list(pool.map(cell, [(fault, client) for fault in FAULTS for client in clients]))
    width = len(clients)
    return [endings[start : start + width] for start in range(0, len(endings), width)]


def run_kills(laboratory: Laboratory, clients: Sequence[Client], size: int, kills: int) -> list[list[Ending]]:
    """Kill and restart each client at ``kills`` random positions. Returns a row per client with an outcome per kill."""
    chance = random.Random(kills)
    points = [chance.uniform(0.02, 0.9) for _ in range(kills)]
    profile = replace(_KILLED_PROFILE, size=size)

    def cell(pair: tuple[Client, float]) -> Ending:
        return _kill(laboratory, profile, pair[0], int(size * pair[1]))

    with ThreadPoolExecutor(_CONCURRENCY) as pool:
        endings = list(pool.map(cell, [(client, point) for client in clients for point in points]))
    by_client = [endings[start : start + kills] for start in range(0, len(endings), kills)]
    for client, line in zip(clients, by_client, strict=True):
        log_progress(f"killed {kills} times: {client.name}: {summary(line)}")
    return by_client


def summary(endings: Sequence[Ending]) -> str:
    """Summarise outcomes in one cell: the count of each, and the mean share that was fetched again."""
    counts = Counter(str(replace(ending, detail="")) for ending in endings)
    text = ", ".join(f"{count} × {name}" for name, count in counts.most_common())
    refetched = [float(ending.detail) for ending in endings if ending.verdict is Verdict.RIGHT]
    return f"{text}; {mean(refetched):.0%} fetched again" if refetched else text


def _run_fault(laboratory: Laboratory, fault: Fault, client: Client, size: int) -> Ending:
    job = laboratory.job(replace(fault.profile, size=size))
    sha256 = laboratory.hash("old", size) if fault.checksum else ""
    with ExitStack() as stack:
        prefix: tuple[str, ...] = ()
        if fault.small_disk and has_namespaces():
            stack.enter_context(small_disk(job.folder, size * 2 // 3))
        elif fault.small_disk:
            # The unit of ulimit is 512 bytes.
            prefix = ("sh", "-c", f'ulimit -f {size * 2 // 3 // 512}; exec "$0" "$@"')
        measured = job.fetch(client, timeout=PATIENCE, limits=LIMITS, sha256=sha256, prefix=prefix)
        ending = _judge(job, measured, fault.accepted(laboratory, size))
        job.clear()
    return ending


def _judge(job: Job, measured: Measured, accepted: frozenset[str]) -> Ending:
    written = job.target.stat().st_size if job.target.exists() else 0
    if measured.killed:
        return Ending(Verdict.HUNG, f"killed after {PATIENCE:g} s, {written / MIB:.0f} MiB written")
    if measured.exit_code:
        return Ending(Verdict.ERROR, measured.error or _status(measured.exit_code))
    if job.hash() in accepted:
        return Ending(Verdict.RIGHT)
    if written > LIMITS.max_bytes:
        return Ending(Verdict.SWALLOWED, f"{written / MIB:.0f} MiB")
    return Ending(Verdict.WRONG)


def _status(exit_code: int) -> str:
    return f"exit {exit_code}" if exit_code > 0 else f"signal {-exit_code}"


def _kill(laboratory: Laboratory, profile: Profile, client: Client, position: int) -> Ending:
    """Kill after ``position`` bytes and restart. The detail of a right outcome is the share that was fetched again."""
    for _ in range(_ATTEMPTS):
        job = laboratory.job(profile)
        if job.fetch(client, timeout=_KILLED_TIMEOUT, resume=True, kill_at=position).killed:
            break
        job.clear()  # it finished before the kill
    measured = job.fetch(client, timeout=_KILLED_TIMEOUT, resume=True)
    ending = _judge(job, measured, _old(laboratory, profile.size))
    if ending.verdict is Verdict.RIGHT:
        ending = replace(ending, detail=str(max(0.0, job.figures()["delivered"] / profile.size - 1)))
    job.clear()
    return ending
