"""Signals to a real process at different stages: its jobs, its child and its files."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psutil
import pytest

from pipeline.messages import SeparationResult, SeparationTask, from_message, to_message
from pipeline.service.shutdown import ExitCode
from pipeline.transport import Topic
from pipeline.transport.embedded.transport import EmbeddedTransport
from tests.processor.service_process import DEADLINE, ask, port_of, processor
from tests.processor.source_files import noise, write_pcm
from tests.processor.worker_threads import eventually
from tests.support.log_lines import lines_until
from tests.support.separation_processes import separation_processes
from tests.support.source_server import Exchange, SourceServer, silence

pytestmark = pytest.mark.slow

TASKS, RESULTS, GROUP = "uvr_tasks", "uvr_results", "uvr_processors"
#: Lease of the embedded transport, s: the jobs of a crashed member are redelivered after it.
LEASE = 1.0


@dataclass
class Scene:
    """The surroundings of a processor."""

    root: Path
    transport: EmbeddedTransport
    source: SourceServer
    """``/silent`` never responds."""
    settings: dict[str, str]
    children: list[psutil.Process] = field(default_factory=list)

    def send(self, path: str = "/song") -> UUID:
        """Queue a task."""
        task = SeparationTask(task_uuid=uuid4(), audio=self.source.url(path), hook_url="http://client/hook")
        self.transport.publish(to_message(TASKS, task))
        return task.task_uuid

    @contextmanager
    def running(self, *behaviours: str, **settings: str) -> Iterator[subprocess.Popen[str]]:
        """Run a processor. Yields its process once its first child exists."""
        with processor(self.root, *behaviours, **{**self.settings, **settings}) as running:
            eventually(lambda: self._found_children(running) or running.poll() is not None, DEADLINE)
            yield running

    def _found_children(self, running: subprocess.Popen[str]) -> bool:
        self.children = separation_processes(running.pid)
        return bool(self.children)

    def begun(self, job: int) -> None:
        """Wait until the child works on its ``job``-th job."""
        eventually((self.root / f"begun-{job}").exists, DEADLINE)

    def signal_child(self, name: str) -> None:
        """Let the child continue."""
        (self.root / name).touch()

    def next_result(self) -> SeparationResult:
        subscription = self.transport.subscribe([RESULTS], "tests")
        delivery = subscription.receive(DEADLINE)
        assert delivery is not None
        subscription.settle(delivery)
        subscription.close()
        return from_message(SeparationResult, delivery.message)

    def available_jobs(self) -> list[tuple[str, int]]:
        """Return the jobs that no member holds, each with the number of its next delivery."""
        subscription = self.transport.subscribe([TASKS], GROUP)
        available = []
        while delivery := subscription.receive(0.1):
            available.append((delivery.message.key, delivery.attempt))
        subscription.close()
        return available

    def work_folders(self) -> set[str]:
        return {path.name for path in (self.root / "data" / "tmp").iterdir()} - {".job-files.lock"}

    def is_cleaned_up(self) -> bool:
        """Return whether the children have ended and the working folders are deleted."""
        _, alive = psutil.wait_procs(self.children, timeout=DEADLINE)
        return not alive and not self.work_folders()


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with SourceServer() as source:
        source.serve_bytes("/song", write_pcm(tmp_path / "song.wav", noise(0.2)).read_bytes())
        source.add("/silent", silence)
        source.otherwise(ready_store_that_stores_nothing)
        (tmp_path / "data").mkdir()
        transport = EmbeddedTransport(tmp_path / "data" / "broker.sqlite", lease=LEASE)
        transport.ensure_topics([Topic(TASKS, None), Topic(RESULTS, None)])
        settings = {"ALLOW_PRIVATE_NETWORKS": "true", "EMBEDDED_LEASE": str(LEASE)}
        yield Scene(tmp_path, transport, source, settings)
        transport.close()


def ready_store_that_stores_nothing(exchange: Exchange) -> None:
    """Behave as an S3 server that passes the readiness check and never answers other requests."""
    target = exchange.request.target
    if target.endswith("?uploads"):
        exchange.respond(200, b"<InitiateMultipartUploadResult><UploadId>1</UploadId></InitiateMultipartUploadResult>")
    elif "list-type=2" in target:
        exchange.respond(200, b"<ListBucketResult/>")
    elif "_check.json" in target:
        exchange.respond(200, b"check" if exchange.request.method == "GET" else b"")
    else:
        exchange.hold()


def failed_attempts(lines: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(line["task_uuid"], line["code"]) for line in lines if line["event"] == "job_attempt_failed"]


def test_loading_processor_is_healthy_but_not_ready_and_stops_at_once(scene: Scene) -> None:
    """The child does not respond any more."""
    task = scene.send()
    with scene.running("hang_in_setup") as running:
        port = port_of(lines_until(running, "listening"))
        # The operating system shows the child a moment before the service does.
        eventually(lambda: "no separation process" not in str(ask(port, "/ready")), DEADLINE)
        health, ready = ask(port, "/health"), ask(port, "/ready")
        running.send_signal(signal.SIGTERM)
        lines = lines_until(running, "stopped")
        assert running.wait(DEADLINE) == ExitCode.OK
    assert (health[0], health[1]["status"]) == (200, "healthy")
    assert ready[0] == 503
    assert ready[1]["components"]["model"] == {"status": "unavailable", "error": "the model is being loaded"}
    assert "consuming" not in {line["event"] for line in lines}
    assert scene.is_cleaned_up()
    assert scene.available_jobs() == [(str(task), 1)]


@dataclass(frozen=True)
class Stage:
    """A stage at which a job may be at the shutdown deadline."""

    wait_until_reached: Callable[[Scene], object]
    path: str = "/song"
    behaviour: str = "work"
    settings: Mapping[str, str] = field(default_factory=dict)


STAGES = {
    "downloading": Stage(lambda scene: scene.source.wait_for_requests(1, DEADLINE), "/silent"),
    "separating": Stage(lambda scene: scene.begun(1), behaviour="finish_when_released_in_job"),
    "handing off": Stage(
        lambda scene: eventually(lambda: any("/handoff/" in sent.path for sent in scene.source.requests), DEADLINE),
        settings={"HANDOFF": "s3", "S3_BUCKET_NAME": "stems", "AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s"},
    ),
}


@pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES)
def test_unfinished_job_is_released_uncounted_at_the_deadline(scene: Scene, stage: Stage) -> None:
    task = scene.send(stage.path)
    settings = {"SHUTDOWN_GRACE": "0.5", "S3_ENDPOINT_URL": scene.source.url(""), **stage.settings}
    with scene.running(stage.behaviour, **settings) as running:
        stage.wait_until_reached(scene)
        running.send_signal(signal.SIGTERM)
        lines = lines_until(running, "stopped")
        assert running.wait(DEADLINE) == ExitCode.OK
    assert failed_attempts(lines) == [(str(task), "shutting_down")]
    assert scene.is_cleaned_up()
    assert scene.available_jobs() == [(str(task), 1)]


def test_job_at_the_device_may_finish_and_waiting_job_is_released(scene: Scene) -> None:
    with scene.running("finish_when_released_in_job") as running:
        first = scene.send()
        scene.begun(1)
        second = scene.send()
        lines_until(running, "downloaded")
        lines_until(running, "downloaded")
        running.send_signal(signal.SIGTERM)
        lines = lines_until(running, "job_attempt_failed")
        scene.signal_child("go-1")
        lines += lines_until(running, "stopped")
        assert running.wait(DEADLINE) == ExitCode.OK
    assert failed_attempts(lines) == [(str(second), "shutting_down")]
    result = scene.next_result()
    assert (result.task_uuid, result.status, len(result.stems)) == (first, "success", 2)
    assert scene.is_cleaned_up()
    assert scene.available_jobs() == [(str(second), 1)]


def kill(running: subprocess.Popen[str]) -> int:
    running.kill()
    return -signal.SIGKILL


def send_two_signals(running: subprocess.Popen[str]) -> int:
    running.send_signal(signal.SIGTERM)
    lines_until(running, "stopping_gracefully")
    running.send_signal(signal.SIGINT)
    return ExitCode.KILLED


@pytest.mark.parametrize("end", [kill, send_two_signals])
def test_another_processor_cleans_up_and_redoes_the_job_after_a_crash(
    scene: Scene, end: Callable[[subprocess.Popen[str]], int]
) -> None:
    task = scene.send()
    with scene.running("finish_when_released_in_job", SHUTDOWN_GRACE=str(DEADLINE)) as running:
        scene.begun(1)
        expected = end(running)
        assert running.wait(DEADLINE) == expected
    gone, alive = psutil.wait_procs(scene.children, timeout=DEADLINE)
    assert (len(gone), alive) == (1, [])
    stale = scene.work_folders()
    assert len(list((scene.root / "data" / "tmp").rglob("mixture.wav"))) == 1
    with scene.running("work") as running:
        lines = lines_until(running, "job_settled")
        running.send_signal(signal.SIGTERM)
        lines += lines_until(running, "stopped")
        assert running.wait(DEADLINE) == ExitCode.OK
    assert {line["folder"] for line in lines if line["event"] == "stale_workdir_removed"} == stale
    assert (lines[-1]["service"], scene.next_result().task_uuid) == ("processor", task)
    assert scene.is_cleaned_up()
    assert scene.available_jobs() == []


def test_crash_of_a_child_is_logged_with_its_job(scene: Scene) -> None:
    task = scene.send()
    with scene.running("die_in_job", "finish_when_released_in_job") as running:
        at_work = lines_until(running, "worker_exited")[-1]
        scene.begun(2)
        (child,) = separation_processes(running.pid)
        scene.signal_child("go-2")
        lines_until(running, "job_settled")
        child.kill()
        idle = lines_until(running, "worker_exited")[-1]
    assert (at_work["task_uuid"], at_work["status"]) == (str(task), -signal.SIGKILL)
    assert (idle["pid"], idle.get("task_uuid")) == (child.pid, None)
