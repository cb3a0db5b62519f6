"""Test the hand-off of stems through S3, between a processor and an uploader without a shared disk."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import pytest

from devstack.processes.process import ServerProcess, free_port
from devstack.processes.server import LocalServer
from pipeline.storage.factory import s3_options
from tests.e2e.audio import Recording
from tests.e2e.endings import check_success
from tests.e2e.service import Service, answers, files
from tests.support.source_server import SourceServer
from tests.support.webhook_receiver import WebhookReceiver

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("servers")]


@pytest.fixture
def host(service: Service, tmp_path: Path) -> Path:
    """Stop the uploader of this machine; return the disk of another machine."""
    service.stop("uploader")
    return tmp_path / "host"


@contextmanager
def uploader_on(host: Path, service: Service) -> Iterator[None]:
    """Run an uploader that shares only settings with the other services."""
    host.mkdir()
    port = str(free_port())
    folders = {"DATA_DIR": "data", "TEMP_DIR": "tmp", "OUTPUT_DIR": "stems", "MODEL_FILE_DIR": "models"}
    environment = {
        **service.stack.plan.environment,
        **{name: str(host / folder) for name, folder in folders.items()},
        "UPLOADER_HEALTH_PORT": port,
    }
    with ServerProcess(
        "remote uploader",
        [sys.executable, "-m", "uploader"],
        log_file=service.stack.plan.log_file("uploader"),  # shared by all uploaders, and checked at the end
        ready=lambda: answers(f"http://127.0.0.1:{port}/ready"),
        env=environment,
        cwd=host,
    ):
        yield


class Bucket:
    """Direct access to the bucket, past the services."""

    def __init__(self, service: Service) -> None:
        options = s3_options(service.settings.storage)
        self._name = options.bucket
        self._client: Any = boto3.client(
            "s3",
            endpoint_url=options.endpoint_url,
            region_name=options.region,
            aws_access_key_id=options.access_key_id,
            aws_secret_access_key=options.secret_access_key,
        )

    def handed_off(self, task_uuid: str) -> list[str]:
        """Return the keys of the task's stems in the hand-off store."""
        found = self._client.list_objects_v2(Bucket=self._name, Prefix=f"handoff/{task_uuid}/")
        return [item["Key"] for item in found.get("Contents", ())]

    def delete(self, key: str) -> None:
        self._client.delete_object(Bucket=self._name, Key=key)

    def close(self) -> None:
        self._client.close()


@pytest.fixture
def bucket(service: Service) -> Iterator[Bucket]:
    opened = Bucket(service)
    yield opened
    opened.close()


def logged(events: list[dict[str, Any]], name: str, task_uuid: str) -> int:
    """Return the number of these events about the task."""
    return sum((event["event"], event.get("task_uuid")) == (name, task_uuid) for event in events)


def test_uploader_on_another_machine(
    service: Service,
    host: Path,
    bucket: Bucket,
    source: SourceServer,
    receiver: WebhookReceiver,
    short_song: Recording,
    servers: dict[str, LocalServer],
) -> None:
    assert "s3" in servers
    source.serve_bytes("/song", short_song.file)
    with uploader_on(host, service):
        task_uuid = service.post(source.url("/song"), receiver.url)
        check_success(service, receiver, task_uuid, short_song)
        service.wait(lambda: not bucket.handed_off(task_uuid), lambda: f"left: {bucket.handed_off(task_uuid)}")
    assert logged(service.log("uploader"), "outcome_decided", task_uuid) == 1
    assert files(host) == []
    assert files(service.settings.state.handoff_dir) == []


def test_stem_lost_in_the_hand_off_is_separated_again(
    service: Service,
    host: Path,
    bucket: Bucket,
    source: SourceServer,
    receiver: WebhookReceiver,
    short_song: Recording,
) -> None:
    source.serve_bytes("/song", short_song.file)
    task_uuid = service.post(source.url("/song"), receiver.url)
    service.wait_for_log("processor", event="job_settled", task_uuid=task_uuid)
    lost, _ = bucket.handed_off(task_uuid)
    bucket.delete(lost)
    with uploader_on(host, service):
        check_success(service, receiver, task_uuid, short_song)
        service.wait(lambda: not bucket.handed_off(task_uuid), lambda: f"left: {bucket.handed_off(task_uuid)}")
    assert logged(service.log("uploader"), "task_resubmitted", task_uuid) == 1
    assert logged(service.log("processor"), "separated", task_uuid) == 2
    assert len(receiver.received) == 1
    assert task_uuid not in service.watcher.dead_letters
