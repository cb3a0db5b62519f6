"""Use the running services as a client, and kill their processes."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import requests
from standardwebhooks import Webhook

from config import Settings
from demo.centre_model import DEMO_MODEL_NAME
from devstack.environment import free_ports, isolated_environment
from devstack.processes.process import ServerProcess, free_port
from devstack.stack import Plan, Stack, running
from tests.e2e.logs import read_log
from tests.e2e.watcher import PATIENCE, Watcher
from tests.support.separation_processes import separation_processes
from tests.support.webhook_receiver import Received

CREDENTIALS = ("tester", "a password of the tests")
WEBHOOK_SECRET = "whsec_" + "dGVzdHMgb25seSwgbm90IGEgc2VjcmV0IGF0IGFsbA=="

#: Longest wait for a service to delete the files of the last job, s.
CLEANUP_TIMEOUT = 20.0
#: Settings for quick retries, quick detection of dead workers, and small limits.
QUICK = {
    "RETRY_DELAYS": "0.2,0.5",
    "MAX_ATTEMPTS": "3",
    "WEBHOOK_MAX_ATTEMPTS": "8",
    "WEBHOOK_TIMEOUT": "5",
    "EMBEDDED_LEASE": "2",
    "KAFKA_SESSION_TIMEOUT_MS": "6000",
    "KAFKA_PARTITIONS": "3",
    "MAX_AUDIO_SECONDS": "200",
    "MAX_AUDIO_BYTES": "24000000",
}


@dataclass
class Service:
    """The service under test, with the ids of all accepted jobs."""

    stack: Stack
    settings: Settings
    watcher: Watcher
    accepted: list[str] = field(default_factory=list)
    _reported: set[str] = field(default_factory=set)

    @property
    def url(self) -> str:
        return self.stack.api_url

    def request(self, audio: str, hook_url: str, **fields: Any) -> requests.Response:
        """POST /generate and return the response."""
        body = {"audio": audio, "hook_url": hook_url, **fields}
        answer = requests.post(f"{self.url}/generate", json=body, auth=CREDENTIALS, timeout=PATIENCE)
        if answer.status_code == requests.codes.accepted:
            self.accepted.append(answer.json()["task_uuid"])
        return answer

    def post(self, audio: str, hook_url: str, **fields: Any) -> str:
        """Post a job, which must be accepted; return its id."""
        answer = self.request(audio, hook_url, **fields)
        assert answer.status_code == requests.codes.accepted, answer.text
        return str(answer.json()["task_uuid"])

    def kill(self, name: str) -> None:
        """Send SIGKILL to the service's own process, as the kernel does when memory is short; its children survive."""
        process = self._process(name)
        process.send_signal(signal.SIGKILL)
        process.wait(PATIENCE)

    def separation_process(self) -> psutil.Process:
        """Return the processor's child process, which owns the model."""
        (child,) = separation_processes(self._process("processor").pid)
        return child

    def jobs_in_progress(self, name: str) -> float:
        """Return the number of jobs in progress, from the metrics of a worker."""
        worker = self.settings.worker
        port = {"processor": worker.processor_health_port, "uploader": worker.uploader_health_port}[name]
        text = requests.get(f"http://127.0.0.1:{port}/metrics", timeout=PATIENCE).text
        (line,) = (line for line in text.splitlines() if line.startswith("uvr_in_hand "))
        return float(line.split()[1])

    def start(self, name: str) -> None:
        self.stack.services[name].start()

    def stop(self, name: str) -> None:
        """Send SIGTERM and wait for the end."""
        self.stack.services[name].stop()

    @contextmanager
    def another_api(self, **settings: str) -> Iterator[str]:
        """Start a second API of the same service with other settings; yield its URL."""
        port = str(free_port())
        address = f"http://127.0.0.1:{port}"
        with ServerProcess(
            "another api",
            [sys.executable, "-m", "api"],
            log_file=self.stack.plan.log_file("another-api"),
            ready=lambda: answers(f"{address}/ready"),
            env={**self.stack.plan.environment, "API_PORT": port, **settings},
            cwd=self.stack.plan.folder,
        ):
            yield address

    def restore(self) -> None:
        """Restart everything that a test has killed, stopped or paused."""
        for server in self.stack.servers.values():
            server.resume()
            server.start()
        for service in self.stack.services.values():
            service.start()

    def wait_until_tidy(self) -> None:
        """Wait until the hand-off store and the working folders contain no files of jobs."""
        try:
            self.wait(lambda: not self.leftovers(), lambda: f"left behind: {self.leftovers()}", CLEANUP_TIMEOUT)
        finally:
            self._reported |= set(self.leftovers())  # do not fail the next test as well

    def leftovers(self) -> list[str]:
        """Return files of jobs, which must be deleted when the jobs have ended."""
        state = self.settings.state
        found = [*files(state.handoff_dir), *state.work_dir.glob("*/job-*"), *state.work_dir.glob("upload-*")]
        return sorted({str(path) for path in found} - self._reported)

    def log(self, name: str) -> list[dict[str, Any]]:
        """Return the events that a service has logged so far."""
        return read_log(self.stack.plan.log_file(name))

    def wait_for_log(self, name: str, **fields: str) -> None:
        """Wait until a service has logged an event with these fields."""
        self.wait(
            lambda: any(fields.items() <= event.items() for event in self.log(name)),
            lambda: f"{name} has logged no {fields}",
        )

    def wait(self, condition: Callable[[], bool], message: Callable[[], str], timeout: float = PATIENCE) -> None:
        """Poll `condition` until it is true; fail with `message` after `timeout` s."""
        deadline = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < deadline, message()
            time.sleep(0.05)

    def check_outcomes(self) -> None:
        """Check that every accepted job has exactly one kind of outcome."""
        outcomes = {task_uuid: self.watcher.outcomes(task_uuid) for task_uuid in self.accepted}
        unclear = {task_uuid: states for task_uuid, states in outcomes.items() if len(set(states)) != 1}
        assert not unclear, unclear

    def _process(self, name: str) -> psutil.Process:
        pid = self.stack.services[name].pid
        assert pid is not None, f"{name} does not run"
        return psutil.Process(pid)


@contextmanager
def service_in(folder: Path, *, real_servers: bool, **settings: str) -> Iterator[Service]:
    """Run the three services with their state and logs below `folder`."""
    environment = isolated_environment(
        {
            "BASIC_AUTH_USERNAME": CREDENTIALS[0],
            "BASIC_AUTH_PASSWORD": CREDENTIALS[1],
            "WEBHOOK_SECRET": WEBHOOK_SECRET,
            "ALLOW_PRIVATE_NETWORKS": "true",
            "MODEL_NAME": DEMO_MODEL_NAME,
            "MODEL_FILE_DIR": str(folder / "models"),
            "DATA_DIR": str(folder / "state"),
            **free_ports(),
            **QUICK,
            **settings,
        }
    )
    plan = Plan(environment=environment, data_dir=folder, log_dir=folder / "logs", real_servers=real_servers)
    with running(plan) as stack, Watcher(stack.plan) as watcher:
        yield Service(stack, stack.settings(), watcher)


def answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=5).ok
    except requests.ConnectionError:
        return False


def signed(request: Received) -> bool:
    """Verify the webhook's signature; return True or raise."""
    Webhook(WEBHOOK_SECRET).verify(request.body, dict(request.headers))
    return True


def files(folder: Path) -> list[Path]:
    """Return all files below `folder` except locks, which belong to no job."""
    return [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"]
