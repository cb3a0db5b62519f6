"""The figures that every Python client prints: the time of its download without its imports."""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def reported_figures() -> Iterator[dict[str, object]]:
    """Measure the block and print the figures at its end, together with the content of the yielded dictionary."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    started = time.monotonic()
    figures: dict[str, object] = {"started": started, "cpu_before": usage.ru_utime + usage.ru_stime}
    try:
        yield figures
    finally:
        figures["seconds"] = time.monotonic() - started
        sys.stdout.write(f"\n{json.dumps(figures)}\n")
        sys.stdout.flush()
