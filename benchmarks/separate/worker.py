"""``python -m benchmarks.separate.worker NAME FOLDER MODEL…``: one contender with these models, warm.

Reads lines with the paths of a model and a song, separated by a tab, and answers each with a line of JSON when the song
is separated.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from pathlib import Path

from benchmarks.separate.names import ENGINE, PARALLEL_OPERATORS
from processor.system import cpu


def main(name: str, folder: str, *models: str) -> None:
    """Answer requests until the input ends."""
    if name in (ENGINE, PARALLEL_OPERATORS):
        cpu.configure_threads(os.environ)  # as in the child, before torch is imported
    from benchmarks.separate.contenders import CONTENDERS

    contenders = {model: CONTENDERS[name](Path(model), Path(folder)) for model in models}
    for line in sys.stdin:
        model, song = line.rstrip("\n").split("\t")
        contender = contenders[model]
        before, started = contender.in_network, time.perf_counter()
        contender.separate(Path(song))
        figures = {
            "wall": time.perf_counter() - started,
            "in_network": contender.in_network - before,
            "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        }
        sys.stdout.write(f"{json.dumps(figures)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
