"""What every Python client tells: when its download began and ended, so that its imports can be told apart."""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def told() -> Iterator[dict[str, object]]:
    """Around the download: prints the figures at the end. What is put into the dictionary is printed as well."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    started = time.monotonic()
    figures: dict[str, object] = {"started": started, "cpu_before": usage.ru_utime + usage.ru_stime}
    try:
        yield figures
    finally:
        figures["seconds"] = time.monotonic() - started
        sys.stdout.write(f"\n{json.dumps(figures)}\n")
        sys.stdout.flush()
