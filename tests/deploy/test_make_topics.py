"""Test the command that creates the topics, as a process, with both engines."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from kafka import KafkaAdminClient

from devstack.kafka.broker import KafkaBroker
from devstack.processes.process import free_port
from pipeline.service.shutdown import ExitCode
from pipeline.transport.kafka.transport import KafkaTransport
from tests.conformance.transport.backends import NEEDS_KAFKA
from tests.deploy.conftest import ROOT
from tests.support.topic_settings import topic_setting
from tests.support.traffic import Traffic, wait_until

COMMAND = [sys.executable, "-m", "deploy.make_topics"]
PATIENCE = 60.0

Settings = Mapping[str, str]


def environment(settings: Settings) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **settings}


def make_topics(folder: Path, *options: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run the command in ``folder``, which contains no ``.env``."""
    return subprocess.run(
        [*COMMAND, *options], cwd=folder, env=environment(settings), capture_output=True, text=True, timeout=PATIENCE
    )


def made(folder: Path, *options: str, **settings: str) -> dict[str, str]:
    """Run the command, which must succeed; return what it did by topic."""
    run = make_topics(folder, *options, **settings)
    assert run.returncode == ExitCode.OK, run.stderr
    return dict(line.split(": ", 1) for line in run.stdout.splitlines())


@pytest.fixture
def names() -> dict[str, str]:
    """Return unique topic names, since all tests share the broker."""
    test = uuid.uuid4().hex[:8]
    return {
        "KAFKA_TASK_TOPIC": f"{test}-tasks",
        "KAFKA_RESULT_TOPIC": f"{test}-results",
        "KAFKA_EVENT_TOPIC": f"{test}-events",
        "KAFKA_RETRY_TOPIC_PREFIX": f"{test}-retry-",
        "KAFKA_DEAD_LETTER_TOPIC": f"{test}-letters",
    }


def test_embedded_topics_are_created_once(tmp_path: Path) -> None:
    first = made(tmp_path)
    assert {"uvr_tasks", "uvr_results", "uvr_events", "uvr_retry_10s", "uvr_dead_letters"} <= first.keys()
    assert (tmp_path / ".local" / "broker.sqlite").exists()
    assert made(tmp_path) == first


def test_missing_certificate_is_a_configuration_error(tmp_path: Path) -> None:
    settings = {"KAFKA_SECURITY_PROTOCOL": "SSL", "KAFKA_SSL_CA_FILE": str(tmp_path / "nothing.pem")}
    run = make_topics(tmp_path, KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:1", **settings)
    assert run.returncode == ExitCode.CONFIG
    assert "KAFKA_SSL_CA_FILE" in run.stderr
    assert "Traceback" not in run.stderr


def test_unreachable_broker_is_reported(tmp_path: Path) -> None:
    run = make_topics(tmp_path, KAFKA_BOOTSTRAP_SERVERS=f"127.0.0.1:{free_port()}")
    assert run.returncode == ExitCode.UNAVAILABLE
    assert "topic_creation_failed" in run.stderr
    assert run.stdout == ""


class TestOnKafka:
    pytestmark = NEEDS_KAFKA

    @pytest.fixture
    def settings(self, kafka_broker: KafkaBroker, names: dict[str, str]) -> dict[str, str]:
        return {"KAFKA_BOOTSTRAP_SERVERS": kafka_broker.bootstrap_servers, **names}

    @pytest.fixture
    def admin(self, kafka_broker: KafkaBroker) -> Iterator[KafkaAdminClient]:
        with kafka_broker.admin() as admin:
            yield admin

    @pytest.mark.slow
    def test_topics_are_created_once_and_updated_on_request(
        self, tmp_path: Path, settings: dict[str, str], admin: KafkaAdminClient
    ) -> None:
        tasks, letters = settings["KAFKA_TASK_TOPIC"], settings["KAFKA_DEAD_LETTER_TOPIC"]

        first = made(tmp_path, **settings, KAFKA_PARTITIONS="3")
        assert len(first) == len(admin.describe_topics(list(first)))
        assert set(first.values()) == {"created: 3 partitions, 1 replicas"}
        assert topic_setting(admin, tasks, "retention.ms") == str(7 * 86_400_000)
        assert topic_setting(admin, letters, "retention.ms") == "-1"

        second = made(tmp_path, **settings, KAFKA_PARTITIONS="3")
        assert second == dict.fromkeys(first, "up to date")

        more = made(tmp_path, **settings, KAFKA_PARTITIONS="5", EMBEDDED_RETENTION="3600")
        assert more[letters] == "2 partitions added to 3"
        assert "--align" in more[tasks]
        assert partitions(admin, tasks) == 5
        assert topic_setting(admin, tasks, "retention.ms") == str(7 * 86_400_000)

        aligned = made(tmp_path, "--align", **settings, KAFKA_PARTITIONS="4", EMBEDDED_RETENTION="3600")
        assert "keeps its 5 partitions" in aligned[letters]
        assert "retention.ms 604800000 changed to 3600000" in aligned[tasks]
        assert partitions(admin, tasks) == 5
        wait_until(lambda: topic_setting(admin, tasks, "retention.ms") == "3600000")

    @pytest.mark.slow
    def test_command_waits_for_the_broker(
        self, tmp_path: Path, settings: dict[str, str], kafka_broker: KafkaBroker
    ) -> None:
        kafka_broker.kill()
        run = subprocess.Popen(
            [*COMMAND, "--wait", str(PATIENCE)],
            cwd=tmp_path,
            env=environment(settings),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        with run:
            assert run.stderr is not None
            assert "broker_unreachable" in run.stderr.readline()
            assert "waiting_for_broker" in run.stderr.readline()
            kafka_broker.start()
            output, _ = run.communicate(timeout=PATIENCE)
        assert run.returncode == ExitCode.OK
        assert f"{settings['KAFKA_RESULT_TOPIC']}: created" in output

    def test_broker_that_rejects_the_client_is_not_waited_for(self, tmp_path: Path, settings: dict[str, str]) -> None:
        login = {"KAFKA_SASL_USERNAME": "separator", "KAFKA_SASL_PASSWORD": "not-to-be-read"}
        run = make_topics(tmp_path, "--wait", "3600", **settings, KAFKA_SECURITY_PROTOCOL="SASL_PLAINTEXT", **login)
        assert run.returncode == ExitCode.REFUSED
        assert "check KAFKA_SECURITY_PROTOCOL" in run.stderr
        assert login["KAFKA_SASL_PASSWORD"] not in run.stderr

    @pytest.mark.slow
    def test_partitions_are_added_while_a_consumer_runs(self, tmp_path: Path, settings: dict[str, str]) -> None:
        topic = settings["KAFKA_TASK_TOPIC"]
        made(tmp_path, **settings, KAFKA_PARTITIONS="1")
        with Traffic(lambda: KafkaTransport(settings["KAFKA_BOOTSTRAP_SERVERS"]), topic) as traffic:
            wait_until(lambda: len(traffic.consumed) > 0)
            assert made(tmp_path, **settings, KAFKA_PARTITIONS="4")[topic] == "3 partitions added to 1"
            wait_until(lambda: len(set(traffic.consumed.values())) == 4)
            traffic.require_all_consumed()


def partitions(admin: KafkaAdminClient, topic: str) -> int:
    (found,) = admin.describe_topics([topic])
    return len(found["partitions"])
