"""Run the services as processes with a real Kafka and a real S3 server, and use them as a client."""

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
#: Time between two requests for the busy time of the engine, s.
INTERVAL: Final = 0.2

_METRIC = "uvr_engine_busy_seconds_total{"
_TIMEOUT = 60.0


@contextmanager
def services(folder: Path, models: Path, overrides: Mapping[str, str]) -> Iterator[Stack]:
    """Run Kafka, S3 and the services, with the demo model loaded; state and logs are below ``folder``.

    All settings have their defaults, except those that a development machine needs, the hand-off of stems through S3,
    as on several machines, and ``overrides``.
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
        **overrides,
    }
    plan = Plan(environment=isolated_environment(settings), data_dir=folder, log_dir=folder / "logs", real_servers=True)
    with running(plan) as stack:
        yield stack


def post(stack: Stack, audio: str, hook_url: str, model: str) -> str:
    """Post a job, again if the queue was too slow to accept it; return its task id. Raises the errors of requests."""
    body = {"audio": audio, "hook_url": hook_url, "model": model}
    deadline = time.monotonic() + _TIMEOUT
    with _direct() as session:
        while True:
            answer = session.post(f"{stack.api_url}/generate", json=body, auth=CREDENTIALS, timeout=_TIMEOUT)
            if answer.status_code != requests.codes.unavailable or time.monotonic() > deadline:
                break
            time.sleep(float(answer.headers.get("Retry-After", "1")))
    answer.raise_for_status()
    return str(answer.json()["task_uuid"])


@dataclass(frozen=True, slots=True)
class BusySample:
    """A sample of the processor's metrics. Times in s."""

    at: float
    """Time of the sample on the monotonic clock."""
    busy: float
    """Busy time of the engine since its start."""


@dataclass
class BusyMonitor:
    """Samples the busy time of the engine during a block."""

    stack: Stack
    samples: list[BusySample] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        worker = self.stack.settings().worker
        self._url = f"http://{worker.processor_health_host}:{worker.processor_health_port}/metrics"
        self._thread = threading.Thread(target=self._run, name="busy-monitor")
        self._sample()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(INTERVAL):
            with suppress(requests.RequestException):  # the end of the processor is noticed elsewhere
                self._sample()

    def _sample(self) -> None:
        with _direct() as session:
            lines = session.get(self._url, timeout=_TIMEOUT).text.splitlines()
        values = [float(line.rpartition(" ")[2]) for line in lines if line.startswith(_METRIC)]  # one for each device
        self.samples.append(BusySample(time.monotonic(), sum(values)))


def busy_time(samples: Sequence[BusySample]) -> tuple[float, float]:
    """Return the busy time of the engine, s, and its share from the start of the first song to the end of the last.

    Start and end are known only to the interval of the samples; the share is computed with the longer time.
    """
    working = [pair for pair in pairwise(samples) if pair[1].busy > pair[0].busy]
    if not working:
        raise ValueError("the engine was not busy at all")
    busy = working[-1][1].busy - working[0][0].busy
    return busy, busy / (working[-1][1].at - working[0][0].at)


def _direct() -> requests.Session:
    session = requests.Session()
    session.trust_env = False  # a proxy cannot reach the services on this machine
    return session
