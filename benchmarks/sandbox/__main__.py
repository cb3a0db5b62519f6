"""python -m benchmarks.sandbox [--write PAGE]: measure the cost of the disposable processes (ten seconds)."""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import soundfile
import structlog

from benchmarks.page import deliver, load_warning, machine, markdown_table, marks
from pipeline.cancellation import CancelToken
from processor.audio.decode import decode
from processor.audio.probe import examine
from processor.audio.wav import SAMPLE_RATE
from processor.sandbox.client import SERVER_COMMAND, AudioSandbox

BEGIN, END = marks("bench-sandbox")
_RUNS = 21
_LONGEST = 3600.0
_HEAD = ("", "in the sandbox", "without it", "more", "more processor time")
#: Name, format and subtype of libsndfile, length in s.
_SONGS = (
    ("10 s of WAV", "WAV", "PCM_16", 10),
    ("10 s of MP3", "MP3", "MPEG_LAYER_III", 10),
)


def _write_song(path: Path, file_format: str, subtype: str, seconds: int) -> None:
    second = np.random.default_rng(0).uniform(-0.25, 0.25, (SAMPLE_RATE, 2)).astype(np.float32)
    with soundfile.SoundFile(path, "w", SAMPLE_RATE, 2, subtype, format=file_format) as file:
        for _ in range(seconds):
            file.write(second)


def _inside(sandbox: AudioSandbox, source: Path) -> None:
    with sandbox.open(source.parent, max_seconds=_LONGEST, cancel=CancelToken()) as decoder:
        decoder.probe(source)
        decoder.decode(source)


def _outside(source: Path) -> None:
    examine(source, max_seconds=_LONGEST)
    decode(source, source.parent, max_seconds=_LONGEST, cancel=CancelToken())


def _processor_time() -> float:
    """Return the processor time of this process, the server, and the processes of the server that have ended, s."""
    (server,) = psutil.Process().children()
    return time.process_time() + sum(server.cpu_times()[:4])


def _costs(work: Callable[[], None], runs: int = _RUNS) -> tuple[float, float]:
    """Return the shortest duration of ``work`` and its mean processor time, both in ms."""
    work()
    durations, before = [], _processor_time()
    for _ in range(runs):
        started = time.perf_counter()
        work()
        durations.append(time.perf_counter() - started)
    return 1000 * min(durations), 1000 * (_processor_time() - before) / runs


def _line(sandbox: AudioSandbox, folder: Path, name: str, file_format: str, subtype: str, seconds: int) -> list[str]:
    source = folder / "source"
    _write_song(source, file_format, subtype, seconds)
    inside, inside_cpu = _costs(lambda: _inside(sandbox, source))
    outside, outside_cpu = _costs(lambda: _outside(source))
    return [name, *(f"{each:.0f} ms" for each in (inside, outside, inside - outside, inside_cpu - outside_cpu))]


def sandbox_report() -> str:
    """Return the table in Markdown, with the sentences around it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        started = time.perf_counter()
        sandbox = AudioSandbox(SERVER_COMMAND)
        try:
            sandbox.check(folder)
            start = time.perf_counter() - started
            empty, empty_cpu = _costs(lambda: sandbox.check(folder))
            lines = [
                [
                    "a process that is confined and ends",
                    f"{empty:.0f} ms",
                    "",
                    f"{empty:.0f} ms",
                    f"{empty_cpu:.0f} ms",
                ],
                *(_line(sandbox, folder, *song) for song in _SONGS),
            ]
            (server,) = psutil.Process().children()
            resident = server.memory_info().rss / 1024**2
            status = sandbox.status()
        finally:
            sandbox.close()
    warning = "".join(f" {sentence}" for sentence in load_warning())
    return (
        f"{machine()}{warning} Active: {status}. "
        f"The server starts once, in {start:.1f} s, and keeps {resident:.0f} MiB.\n\n"
        f"{markdown_table(_HEAD, lines)}"
    )


def main() -> int:
    """Run the benchmark and return 0. Errors propagate."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sandbox", description="Print the table to stdout.")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="write it between the marks in PAGE instead")
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    deliver(sandbox_report(), parser.parse_args().write, BEGIN, END)
    return 0


if __name__ == "__main__":
    sys.exit(main())
