"""Which of several sources to ask first: each is asked for one byte, side by side."""

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
from pipeline.download.parallel.range_request import part_of
from pipeline.download.sources import Source
from pipeline.errors import PipelineError
from pipeline.service.logs import get_logger

log = get_logger(__name__)

#: Longest wait for all probes, s.
PROBE_TIME: Final = 3.0


@dataclass(frozen=True, slots=True)
class _Health:
    source: Source
    total: int
    ranged: bool
    seconds: float


def by_speed(line: HttpClient, sources: Sequence[Source]) -> list[Source]:
    """``sources``, the last of which is the origin, with the mirrors that answer and have a file of the right size.

    Those that give parts of it come first, then by the time to their answer. The origin stays last, and says what the
    right size is; if it does not answer, most mirrors do.
    """
    *mirrors, origin = sources
    if not mirrors:
        return [origin]
    healthy = _probe_all(line, sources)
    told = next((health.total for health in healthy if health.source is origin), None)
    total = told if told is not None else _most_common([health.total for health in healthy])
    fit = [health for health in healthy if health.total == total and health.source is not origin]
    fit.sort(key=lambda health: (not health.ranged, health.seconds))
    log.info("download_mirrors", fit=[health.source.subject for health in fit], left_out=len(mirrors) - len(fit))
    return [*(health.source for health in fit), origin]


def _probe_all(line: HttpClient, sources: Sequence[Source]) -> list[_Health]:
    """What answered in time; the rest is hung up on."""
    healthy: list[_Health] = []
    threads = [threading.Thread(target=_probe, args=(line, source, healthy), daemon=True) for source in sources]
    deadline = time.monotonic() + min(PROBE_TIME, line.limits.connect_timeout)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(deadline - time.monotonic(), 0.0))
    answered = list(healthy)
    for thread in threads:
        while thread.is_alive():
            line.watchdog.give_up_branches()
            thread.join(0.05)
    line.watchdog.raise_if_fired()
    return answered


def _probe(line: HttpClient, source: Source, healthy: list[_Health]) -> None:
    started = time.monotonic()
    try:
        with line.open(source, {"Range": "bytes=0-0"}) as exchange:
            seconds = time.monotonic() - started
            part = part_of(exchange)
            whole = exchange.response.status_code == HTTPStatus.OK
            total = part.total if part else declared_length(exchange.response, source.subject) if whole else None
    except PipelineError as error:
        log.info("download_mirror_unfit", url=source.subject, code=error.code)
        return
    if total is not None:
        healthy.append(_Health(source, total, part is not None, seconds))


def _most_common(totals: list[int]) -> int | None:
    return Counter(totals).most_common(1)[0][0] if totals else None
