"""The services, as processes on a real Kafka and a real S3 server, and a client of theirs."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import requests

from demo.centre_model import DEMO_MODEL_NAME
from devstack.environment import free_ports, isolated_environment
from devstack.stack import Plan, Stack, running

CREDENTIALS: Final = ("benchmark", "a password of the benchmark")
#: How often the processor is asked how long its engine was busy, s.
LOOK: Final = 0.2

_METRIC = "uvr_engine_busy_seconds_total{"
_TIMEOUT = 60.0


@contextmanager
def services(folder: Path, models: Path, chosen: Mapping[str, str]) -> Iterator[Stack]:
    """Kafka, S3 and the services, ready, with the demo model loaded; their state and logs are below ``folder``.

    All settings are the defaults, but for those that a development machine needs, for stems that are handed over by
    S3, as on several machines, and for what is ``chosen``.
    """
    settings = {
        "BASIC_AUTH_USERNAME": CREDENTIALS[0],
        "BASIC_AUTH_PASSWORD": CREDENTIALS[1],
        "ALLOW_PRIVATE_NETWORKS": "true",
        "MODEL_NAME": DEMO_MODEL_NAME,
        "MODEL_FILE_DIR": str(models),
        "DATA_DIR": str(folder / "state"),
        "HANDOFF": "s3",
        **free_ports(),
        **chosen,
    }
    plan = Plan(environment=isolated_environment(settings), data_dir=folder, log_dir=folder / "logs", real_servers=True)
    with running(plan) as stack:
        yield stack


def post(stack: Stack, audio: str, hook_url: str, model: str) -> str:
    """Ask for a separation; returns the task's id. Raises requests' errors."""
    body = {"audio": audio, "hook_url": hook_url, "model": model}
    with _direct() as session:
        answer = session.post(f"{stack.api_url}/generate", json=body, auth=CREDENTIALS, timeout=_TIMEOUT)
    answer.raise_for_status()
    return str(answer.json()["task_uuid"])


@dataclass(frozen=True, slots=True)
class Look:
    """One look at the processor's metrics. Times in s."""

    at: float
    """On the monotonic clock."""
    busy: float
    """How long the engine has been busy since its start."""


@dataclass
class BusyWatch:
    """Looks at how long the engine is busy, while the block it is entered for runs."""

    stack: Stack
    looks: list[Look] = field(default_factory=list)
    _over: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        worker = self.stack.settings().worker
        self._url = f"http://{worker.processor_health_host}:{worker.processor_health_port}/metrics"
        self._thread = threading.Thread(target=self._watch, name="busy-watch")
        self._look()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(LOOK):
            with suppress(requests.RequestException):  # whether the processor lives is watched elsewhere
                self._look()

    def _look(self) -> None:
        with _direct() as session:
            lines = session.get(self._url, timeout=_TIMEOUT).text.splitlines()
        values = [float(line.rpartition(" ")[2]) for line in lines if line.startswith(_METRIC)]  # one for each device
        self.looks.append(Look(time.monotonic(), sum(values)))


def busy_once_warm(looks: Sequence[Look]) -> tuple[float, float]:
    """How long the engine was busy, s, and the share of it in the time from its first song's begin to its last's end.

    Both ends are known to one look; each is taken where it makes the share smaller.
    """
    working = [pair for pair in pairwise(looks) if pair[1].busy > pair[0].busy]
    if not working:
        raise ValueError("the engine was not busy at all")
    busy = working[-1][1].busy - working[0][0].busy
    return busy, busy / (working[-1][1].at - working[0][0].at)


def _direct() -> requests.Session:
    session = requests.Session()
    session.trust_env = False  # the services are on this machine, where no proxy leads
    return session
