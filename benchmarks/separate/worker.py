"""``python -m benchmarks.separate.worker NAME MODEL_DIR MODEL FOLDER``: one contender, warm.

Reads paths of songs, a line each, and answers each with a line of JSON when the song is separated.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

from benchmarks.separate.contenders import CONTENDERS


def main(name: str, model_dir: str, model: str, folder: str) -> None:
    """Until the input ends."""
    contender = CONTENDERS[name](Path(model_dir), model, Path(folder))
    for line in sys.stdin:
        before, started = contender.in_network, time.perf_counter()
        contender.separate(Path(line.strip()))
        figures = {
            "wall": time.perf_counter() - started,
            "in_network": contender.in_network - before,
            "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        }
        sys.stdout.write(f"{json.dumps(figures)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
