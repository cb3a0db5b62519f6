"""``python -m pipeline.dead_letters`` as a process: its settings, exit statuses and error sentences."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from config import SECTIONS
from devstack.processes.process import free_port
from pipeline.consuming.retry_headers import dead_letter
from pipeline.errors import ErrorCode, TransientError
from pipeline.service.shutdown import ExitCode
from pipeline.transport.protocol import Message, Topic
from tests.conformance.transport import backends
from tests.conformance.transport.backends import Backend

ROOT = Path(__file__).parents[3]
KNOWN = {str(field.alias) for section in SECTIONS for field in section.model_fields.values()}
DEADLINE = 60.0


@pytest.fixture(params=backends.BOTH_ENGINES)
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Backend]:
    if request.param == "embedded":
        with backends.embedded(tmp_path) as opened:
            yield opened
        return
    broker = request.getfixturevalue("kafka_broker")
    with backends.kafka(broker.bootstrap_servers, partitions=1) as opened:
        yield opened


def command(
    folder: Path, *arguments: str, module: str = "pipeline.dead_letters", **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run the command in a folder without ``.env``, with these settings only."""
    inherited = {name: value for name, value in os.environ.items() if name not in KNOWN}
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=folder,
        env={**inherited, "PYTHONPATH": str(ROOT), "DATA_DIR": str(folder), **variables},
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )


@pytest.mark.slow
def test_the_command_uses_the_settings_of_the_services(backend: Backend, tmp_path: Path) -> None:
    name = uuid.uuid4().hex[:12]
    settings = {"KAFKA_RESULT_TOPIC": f"results-{name}", "KAFKA_DEAD_LETTER_TOPIC": f"dead-{name}"}
    if "bootstrap_servers" in backend.description:
        settings["KAFKA_BOOTSTRAP_SERVERS"] = backend.description["bootstrap_servers"]
    transport = backend.open()
    transport.ensure_topics([Topic(topic, None) for topic in settings.values() if name in topic])
    undelivered = TransientError("the webhook answered 503", code=ErrorCode.WEBHOOK_FAILED)
    transport.publish(dead_letter(f"dead-{name}", Message(f"results-{name}", "k", b"outcome"), undelivered))

    listed = command(tmp_path, "list", "--json", **settings)
    letter = json.loads(listed.stdout)["id"]
    replayed = command(tmp_path, "replay", letter, **settings)
    missing = command(tmp_path, "show", "0/4711", **settings)

    assert (listed.returncode, listed.stderr) == (0, "")
    assert (replayed.returncode, replayed.stderr) == (0, "")
    assert replayed.stdout == f"{letter}: replayed to results-{name}, as it was\n"
    assert [stored.message.value for stored in transport.browse(f"results-{name}")] == [b"outcome"]
    assert missing.returncode == 1
    assert missing.stdout == ""
    assert missing.stderr.count("\n") == 1


@pytest.mark.slow
def test_an_unreachable_broker_is_reported_with_its_address_and_in_one_sentence(tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    ended = command(tmp_path, "list", KAFKA_BOOTSTRAP_SERVERS=address)

    assert ended.returncode == ExitCode.UNAVAILABLE
    assert ended.stdout == ""
    *reports, sentence = ended.stderr.splitlines()
    assert sentence == "the broker does not answer (connection refused)"
    assert reports
    assert all(f'"address": "{address}"' in line and "connection refused" in line for line in reports)


def test_a_file_that_is_no_database_is_reported_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "broker.sqlite").write_bytes(b"something else " * 1000)

    ended = command(tmp_path, "list")

    assert ended.returncode == ExitCode.UNAVAILABLE
    assert "the embedded queue does not answer" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_an_invalid_setting_is_named(tmp_path: Path) -> None:
    ended = command(tmp_path, "list", KAFKA_PARTITIONS="many")

    assert ended.returncode == ExitCode.CONFIG
    assert "KAFKA_PARTITIONS" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_the_earlier_name_still_works(tmp_path: Path) -> None:
    ended = command(tmp_path, "list", KAFKA_PARTITIONS="many", module="pipeline.deadletters")

    assert ended.returncode == ExitCode.CONFIG
    assert "KAFKA_PARTITIONS" in ended.stderr


def test_a_closed_pipe_is_no_defect(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with backends.embedded(tmp_path) as backend:
        gone = TransientError("the webhook answered 503", code=ErrorCode.WEBHOOK_FAILED)
        backend.open().publish(dead_letter("uvr_dead_letters", Message("uvr_results", "k", b""), gone))
    # Python buffers the output until the end unless this variable is set, as it is in many containers.
    inherited = {name: value for name, value in os.environ.items() if name not in {*KNOWN, "PYTHONUNBUFFERED"}}
    ended = subprocess.run(
        [sys.executable, "-m", "pipeline.dead_letters", "list"],
        cwd=tmp_path,
        env={**inherited, "PYTHONPATH": str(ROOT), "DATA_DIR": str(tmp_path)},
        stdout=writing,
        stderr=subprocess.PIPE,
        timeout=DEADLINE,
        check=False,
    )
    os.close(writing)

    assert ended.returncode == 1
    assert ended.stderr == b""
