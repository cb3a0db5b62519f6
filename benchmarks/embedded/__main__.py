"""Run the benchmark: python -m benchmarks.embedded [--waiting N …] [--expired N] [--tree FOLDER]."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.page import machine, markdown_table

_ROOT = Path(__file__).parents[2]
_WORKER = Path(__file__).with_name("worker.py")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.embedded", description="Print the report to stdout.")
    parser.add_argument("--waiting", nargs="+", type=int, default=[0, 50_000, 500_000], help="messages not yet due")
    parser.add_argument("--expired", type=int, default=300_000, help="messages that the purge drops")
    parser.add_argument("--tree", type=Path, default=_ROOT, help="checkout that is measured; default: this one")
    return parser.parse_args()


def _start(tree: Path, measurement: str, path: Path, count: int, seconds: float) -> subprocess.Popen[str]:
    """Start a worker on the code of ``tree``."""
    return subprocess.Popen(
        [sys.executable, str(_WORKER), measurement, str(path), str(count), str(seconds)],
        cwd=tree,
        env={**os.environ, "PYTHONPATH": str(tree)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def _result(worker: subprocess.Popen[str]) -> dict[str, float]:
    """Close the worker's input and return what it measured. Raises ValueError if it failed."""
    output, _ = worker.communicate()
    # Log lines may precede the result.
    result: dict[str, float] = json.loads(output[output.rindex("{") :])
    return result


def waiting_row(tree: Path, folder: Path, count: int, seconds: float = 3.0) -> list[str]:
    """Measure a member beside ``count`` waiting messages."""
    measured = _result(_start(tree, "waiting", folder / f"waiting-{count}.sqlite", count, seconds))
    return [
        f"{count:,}",
        f"{measured['poll'] * 1000:.2f}",
        f"{measured['idle']:.1%}",
        f"{measured['receive'] * 1000:.2f}",
    ]


def purge_row(tree: Path, folder: Path, count: int, seconds: float = 10.0) -> list[str]:
    """Measure a publisher while another process purges ``count`` messages."""
    path = folder / "purge.sqlite"
    _result(_start(tree, "fill", path, count, seconds))
    before = path.stat().st_size
    purger = _start(tree, "purge", path, count, seconds)
    measured = _result(_start(tree, "publish", path, count, seconds))
    _result(purger)
    return [
        f"{count:,}",
        f"{measured['longest'] * 1000:.0f}",
        f"{measured['median'] * 1000:.1f}",
        f"{measured['seconds']:.0f}",
        f"{before / 1e6:.1f}",
        f"{path.stat().st_size / 1e6:.1f}",
    ]


def main() -> int:
    """Run the benchmark and return 0. Errors propagate."""
    arguments = _arguments()
    tree = arguments.tree.resolve()
    with tempfile.TemporaryDirectory(prefix="bench-embedded-") as name:
        waiting = [waiting_row(tree, Path(name), count) for count in arguments.waiting]
        purge = purge_row(tree, Path(name), arguments.expired)
    member_head = ("messages not yet due", "CPU ms for a poll", "idle member, of a core", "CPU ms for a delivery")
    purge_head = ("messages purged", "longest publish ms", "median ms", "until done s", "file before MB", "after MB")
    tables = (markdown_table(member_head, waiting), markdown_table(purge_head, [purge]))
    sys.stdout.write("\n\n".join((machine(), *tables, "")))
    return 0


if __name__ == "__main__":
    sys.exit(main())
