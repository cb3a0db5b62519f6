"""Runs the API as a process, attacks it from another, and asks it as an honest client meanwhile."""

from __future__ import annotations

import base64
import http.client
import json
import multiprocessing
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.front_door.attacks import ATTACKS, Attack, Target, attack
from config import load
from pipeline.storage.factory import open_store

_USER, _PASSWORD = "operator", "correct-horse"
_AUTHORIZATION = "Basic " + base64.b64encode(f"{_USER}:{_PASSWORD}".encode()).decode()
#: Longest wait for an answer, s. A later one counts as none.
PATIENCE = 10.0
#: Pause between two rounds of requests, s.
_INTERVAL = 0.25
_STEM_BYTES = 64 * 1024 * 1024
#: An address, so that no name is resolved. No processor runs.
_JOB = json.dumps({"audio": "https://93.184.215.14/a.mp3", "hook_url": "https://93.184.215.14/b"}).encode()


@dataclass(frozen=True)
class Measurement:
    """What an honest client saw during an attack. Latencies in s; None for a request without an answer."""

    attack: Attack
    health: list[float | None]
    jobs: list[float | None]
    log_bytes: int
    seconds: float


def run_row(of: Attack, folder: Path, tree: Path, seconds: float, *, head_start: float = 3.0) -> Measurement:
    """Measure one attack for ``seconds``. ``tree``: the checkout whose API runs. ``folder``: for its files, created.

    ``head_start``: time for the attackers to open their connections, s.
    """
    folder.mkdir(parents=True)
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port = reserved.getsockname()[1]
    settings = {
        "BASIC_AUTH_USERNAME": _USER,
        "BASIC_AUTH_PASSWORD": _PASSWORD,
        "API_PORT": str(port),
        "DATA_DIR": str(folder / "data"),
    }
    target = Target(port, _AUTHORIZATION, _store_stem(folder, settings))
    with _api(of, folder, tree, settings), _under_attack(of, target, head_start):
        health, jobs = _ask(port, seconds)
    return Measurement(of, health, jobs, (folder / "api.log").stat().st_size, seconds)


def _store_stem(folder: Path, settings: dict[str, str]) -> str:
    """Put a large stem into the local store and return the path of its link."""
    song = folder / "stem.wav"
    song.write_bytes(bytes(_STEM_BYTES))
    store = open_store(load(None, settings))
    key = "00000000-0000-4000-8000-000000000000_vocals.wav"
    store.put(key, song, content_type="audio/wav")
    link = urlsplit(store.url(key))
    return f"{link.path}?{link.query}"


@contextmanager
def _api(of: Attack, folder: Path, tree: Path, settings: dict[str, str]) -> Iterator[None]:
    environment = {**os.environ, "PYTHONPATH": str(tree), **settings}
    limit = f"ulimit -n {of.descriptors}; " if of.descriptors else ""
    with (folder / "api.log").open("wb") as log:
        process = subprocess.Popen(
            ["bash", "-c", f"{limit}exec {sys.executable} -m api"], cwd=folder, env=environment, stderr=log
        )
    try:
        _wait_until_healthy(int(settings["API_PORT"]))
        yield
    finally:
        process.kill()
        process.wait()


@contextmanager
def _under_attack(of: Attack, target: Target, head_start: float) -> Iterator[None]:
    attacker = multiprocessing.get_context("spawn").Process(target=attack, args=(of, target), daemon=True)
    attacker.start()
    try:
        time.sleep(head_start)
        yield
    finally:
        attacker.kill()
        attacker.join()


def _wait_until_healthy(port: int) -> None:
    deadline = time.monotonic() + 60
    while _latency(port, "GET", "/health") is None:
        if time.monotonic() > deadline:
            raise RuntimeError("the API has not started within 60 s")
        time.sleep(0.1)


def _ask(port: int, seconds: float) -> tuple[list[float | None], list[float | None]]:
    """Ask for the health and post a job, in turn, for ``seconds``."""
    health: list[float | None] = []
    jobs: list[float | None] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        health.append(_latency(port, "GET", "/health"))
        jobs.append(_latency(port, "POST", "/generate", source="127.0.0.2"))
        time.sleep(_INTERVAL)
    return health, jobs


def _latency(port: int, method: str, path: str, source: str = "127.0.0.1") -> float | None:
    """Return the time to a successful answer to a new connection from ``source``, s; None without one."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE, source_address=(source, 0))
    headers = {"Authorization": _AUTHORIZATION, "Content-Type": "application/json"} if method == "POST" else {}
    started = time.monotonic()
    try:
        connection.request(method, path, _JOB if method == "POST" else None, headers)
        response = connection.getresponse()
        response.read()
        return time.monotonic() - started if response.status in (200, 202) else None
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def chosen(names: list[str]) -> list[Attack]:
    """Return the attacks with these names."""
    return [item for item in ATTACKS if item.name in names]


def latency_summary(latencies: list[float | None]) -> tuple[str, str, str]:
    """Return the answered share, and the median and the longest latency of the answers in ms."""
    answered = [latency * 1000 for latency in latencies if latency is not None]
    share = f"{len(answered)} of {len(latencies)}"
    return (share, f"{statistics.median(answered):.0f}", f"{max(answered):.0f}") if answered else (share, "–", "–")
