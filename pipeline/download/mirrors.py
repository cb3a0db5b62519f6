"""Order the mirrors of a file: each is probed concurrently with a request for one byte."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from pipeline.download.http.request import HttpClient
from pipeline.download.http.response import declared_length
from pipeline.download.parallel.range_request import response_range
from pipeline.download.sources import Source
from pipeline.errors import PipelineError
from pipeline.service.logs import get_logger

log = get_logger(__name__)

#: Maximum time for all probes, s.
PROBE_TIME: Final = 3.0


@dataclass(frozen=True, slots=True)
class _Probe:
    source: Source
    total: int
    accepts_ranges: bool
    seconds: float


def order_sources(client: HttpClient, sources: Sequence[Source]) -> list[Source]:
    """Return the usable mirrors in order, then the origin, which is the last of ``sources``.

    A mirror is usable if it answers and its file has the right size: that of the origin or, if the origin does not
    answer, of most mirrors. Mirrors that accept range requests come first, then the faster ones.
    """
    *mirrors, origin = sources
    if not mirrors:
        return [origin]
    probes = _probe_all(client, sources)
    total = next((probe.total for probe in probes if probe.source is origin), None)
    if total is None and probes:
        total = Counter(probe.total for probe in probes).most_common(1)[0][0]
    usable = [probe for probe in probes if probe.total == total and probe.source is not origin]
    usable.sort(key=lambda probe: (not probe.accepts_ranges, probe.seconds))
    log.info("download_mirrors", usable=[probe.source.subject for probe in usable], rejected=len(mirrors) - len(usable))
    return [*(probe.source for probe in usable), origin]


def _probe_all(client: HttpClient, sources: Sequence[Source]) -> list[_Probe]:
    """Return the probes answered in time; the others are cancelled."""
    probes: list[_Probe] = []
    threads = [threading.Thread(target=_probe, args=(client, source, probes), daemon=True) for source in sources]
    deadline = time.monotonic() + min(PROBE_TIME, client.limits.connect_timeout)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(deadline - time.monotonic(), 0.0))
    answered = list(probes)
    for thread in threads:
        while thread.is_alive():
            client.watchdog.cancel_branches()
            thread.join(0.05)
    client.watchdog.raise_if_fired()
    return answered


def _probe(client: HttpClient, source: Source, probes: list[_Probe]) -> None:
    started = time.monotonic()
    try:
        with client.prepare(source) as request, request.send({"Range": "bytes=0-0"}) as stream:
            seconds = time.monotonic() - started
            part = response_range(stream)
            total = part.total if part else None
            if stream.response.status_code == HTTPStatus.OK:
                total = declared_length(stream.response, source.subject)
    except PipelineError as error:
        log.info("download_mirror_rejected", url=source.subject, code=error.code)
        return
    if total is not None:
        probes.append(_Probe(source, total, part is not None, seconds))
