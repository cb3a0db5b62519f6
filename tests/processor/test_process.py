"""``python -m processor`` as a process: start-up, logs, exit status."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import psutil
import pytest

from demo import tiny_models
from demo.centre_model import DEMO_MODEL_NAME, write_demo_model
from pipeline.messages import SeparationResult, SeparationTask, from_message, to_message
from pipeline.service.shutdown import ExitCode
from pipeline.transport.embedded.transport import EmbeddedTransport
from processor.__main__ import main
from processor.system.cpu import usable_cores
from tests.processor.models.model_source import store_in
from tests.processor.models.models_in_memory import memory_folder
from tests.processor.service_process import DEADLINE, ask, port_of, processor
from tests.processor.source_files import noise, write_pcm
from tests.processor.worker_threads import eventually
from tests.support.log_lines import lines_until
from tests.support.separation_processes import separation_processes
from tests.support.source_server import SourceServer


@pytest.mark.slow
def test_start_job_and_shutdown(tmp_path: Path, model_dir: Path) -> None:
    """It reports readiness, does a job, and ends together with its child, without working files."""
    song = write_pcm(tmp_path / "song.wav", noise(0.5)).read_bytes()
    task = SeparationTask(task_uuid=uuid4(), audio="", hook_url="http://127.0.0.1/hook")
    settings = {"MODEL_NAME": DEMO_MODEL_NAME, "MODEL_FILE_DIR": str(model_dir), "ALLOW_PRIVATE_NETWORKS": "true"}
    with SourceServer() as source, processor(tmp_path, **settings) as running:
        source.serve_bytes("/song", song)
        lines = lines_until(running, "consuming")
        port = port_of(lines)
        ready, health = ask(port, "/ready"), ask(port, "/health")
        children = psutil.Process(running.pid).children(recursive=True)
        (child,) = separation_processes(running.pid)
        transport = EmbeddedTransport(tmp_path / "data" / "broker.sqlite")
        transport.publish(to_message("uvr_tasks", task.model_copy(update={"audio": source.url("/song")})))
        results = transport.subscribe(["uvr_results"], "tests")
        delivery = results.receive(DEADLINE)
        assert delivery is not None
        results.close()
        transport.close()
        running.send_signal(signal.SIGTERM)
        lines += lines_until(running, "stopped")
        status = running.wait(DEADLINE)

    assert from_message(SeparationResult, delivery.message).status == "success"
    protections = ready[1].pop("sandbox")
    assert protections == health[1]["sandbox"]
    assert protections["rlimits"]
    assert ready == (
        200,
        {
            "status": "ready",
            "components": {name: {"status": "ready"} for name in ("broker", "consumption", "model", "handoff")},
            "children": [
                {"device": "cpu", "name": "cpu", "pid": child.pid, "models": [DEMO_MODEL_NAME], "state": "ready"}
            ],
        },
    )
    assert (health[0], health[1]["status"], health[1]["children"]) == (200, "healthy", ready[1]["children"])
    assert status == ExitCode.OK
    assert psutil.wait_procs(children, timeout=DEADLINE)[1] == []
    assert [path.name for path in (tmp_path / "data" / "tmp").iterdir()] == [".job-files.lock"]
    (ready_child,) = (line for line in lines if line["event"] == "worker_ready")
    assert (ready_child["service"], ready_child["model"], ready_child["device"]) == (
        "processor",
        DEMO_MODEL_NAME,
        "cpu",
    )
    # All log lines about the job carry its id.
    assert {line["event"] for line in lines if line.get("task_uuid") == str(task.task_uuid)} >= {
        "downloaded",
        "separating",
        "stem_handed_off",
        "separated",
        "job_settled",
    }


@pytest.mark.slow
def test_missing_model_prevents_the_start(tmp_path: Path) -> None:
    """A model that is neither on disk nor downloadable gives one error sentence, and no topic is consumed."""
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        closed_port = f"https://127.0.0.1:{reserved.getsockname()[1]}"
    tiny_models.list_demucs(tmp_path / "models", "absent.yaml", "absent.th", closed_port)
    settings = {"MODEL_NAME": "absent.yaml", "MODEL_FILE_DIR": "models", "ALLOW_PRIVATE_NETWORKS": "true"}
    with processor(tmp_path, **settings) as running:
        _, stderr = running.communicate(timeout=DEADLINE)
    lines = [json.loads(line) for line in stderr.splitlines()]

    assert running.returncode == 69
    (refusal,) = (line for line in lines if line["event"] == "startup_failed")
    assert refusal["code"] == "model_unavailable"
    assert refusal["error"] == (
        "the model absent.yaml is not complete in MODEL_FILE_DIR and cannot be downloaded (source unavailable): put "
        "its files there, let MODEL_NAME name a model that is there, or allow the download"
    )
    assert "consuming" not in {line["event"] for line in lines}


def test_signal_during_the_start_stops_it(tmp_path: Path, model_dir: Path) -> None:
    settings = {"MODEL_NAME": DEMO_MODEL_NAME, "MODEL_FILE_DIR": str(model_dir)}
    with processor(tmp_path, **settings) as running:
        parent = psutil.Process(running.pid)
        while not separation_processes(running.pid):
            assert running.poll() is None
        children = parent.children()
        running.send_signal(signal.SIGTERM)
        lines = lines_until(running, "stopped")
        assert running.wait(DEADLINE) == ExitCode.OK
    assert {"model_loaded", "worker_ready"}.isdisjoint(line["event"] for line in lines)
    assert psutil.wait_procs(children, timeout=DEADLINE)[1] == []
    assert [path.name for path in (tmp_path / "data" / "tmp").iterdir()] == [".job-files.lock"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("REQUIRE_GPU", "perhaps"),
        ("MODEL_NAME", "../escape.onnx"),
        ("MAX_AUDIO_SECONDS", "-1"),
        ("PROCESSOR_HEALTH_PORT", "eighty"),
        ("PROCESSOR_DEVICES", "auto,0"),
        ("PROCESSOR_CONCURRENCY", "none"),
    ],
)
def test_unusable_setting_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, value: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(name, value)

    assert main() is ExitCode.CONFIG

    (sentence,) = capsys.readouterr().err.splitlines()
    assert sentence.startswith(f"{name}: ")
    assert value not in sentence
    assert list(tmp_path.iterdir()) == []


def test_unusable_setting_gives_the_exit_status(tmp_path: Path) -> None:
    with processor(tmp_path, REQUIRE_GPU="perhaps") as running:
        _, stderr = running.communicate(timeout=DEADLINE)
    assert running.returncode == 78
    assert stderr.startswith("REQUIRE_GPU: ")
    assert len(stderr.splitlines()) == 1


def test_unusable_working_folder_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with processor(tmp_path, TEMP_DIR=str(tmp_path / "file")) as running:
        _, stderr = running.communicate(timeout=DEADLINE)
    assert running.returncode == ExitCode.UNAVAILABLE
    (line,) = (json.loads(text) for text in stderr.splitlines() if "startup_failed" in text)
    assert line["error"] == "TEMP_DIR cannot be used: File exists"


LISTING = """\
GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-aaaa)
GPU 1: NVIDIA L4 (UUID: GPU-bbbb)
"""


def path_with_driver(folder: Path) -> str:
    """Return a ``PATH`` with a program that lists GPUs."""
    program = folder / "bin" / "nvidia-smi"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ncat <<'END'\n{LISTING}END\n")
    program.chmod(0o755)
    return f"{program.parent}{os.pathsep}{os.environ['PATH']}"


def device_and_threads_of(child: psutil.Process) -> tuple[str | None, str | None]:
    """Return the variables of a child that select its device and its number of threads."""
    variables = child.environ()
    return variables.get("CUDA_VISIBLE_DEVICES"), variables.get("OMP_NUM_THREADS")


@pytest.mark.parametrize(
    ("settings", "labels", "visible_devices"),
    [
        (
            {"PROCESSOR_DEVICES": "auto", "PROCESSOR_CONCURRENCY": "2"},
            ["0", "1", "0", "1"],
            ["GPU-aaaa", "GPU-bbbb", "GPU-aaaa", "GPU-bbbb"],
        ),
        ({"PROCESSOR_DEVICES": "1,0", "CUDA_VISIBLE_DEVICES": "7,5"}, ["1", "0"], ["5", "7"]),
        ({"PROCESSOR_DEVICES": "cpu", "PROCESSOR_CONCURRENCY": "2"}, ["cpu", "cpu"], ["", ""]),
    ],
)
def test_each_child_sees_one_device_and_ends_with_the_processor(
    tmp_path: Path, settings: dict[str, str], labels: list[str], visible_devices: list[str]
) -> None:
    with processor(tmp_path, "work", PATH=path_with_driver(tmp_path), **settings) as running:
        lines = lines_until(running, "consuming")
        port = port_of(lines)
        eventually(lambda: all(each["state"] == "ready" for each in ask(port, "/ready")[1]["children"]), DEADLINE)
        shown = ask(port, "/ready")[1]["children"]
        children = [psutil.Process(each["pid"]) for each in shown]
        environments = [device_and_threads_of(child) for child in children]
        running.send_signal(signal.SIGTERM)
        lines += lines_until(running, "stopped")
        assert running.wait(DEADLINE) == ExitCode.OK
    assert [each["device"] for each in shown] == labels
    share = str(max(1, usable_cores() // len(labels)))
    threads = os.environ.get("OMP_NUM_THREADS", share)
    assert environments == [(visible, threads) for visible in visible_devices]
    (consuming,) = (line for line in lines if line["event"] == "consuming")
    assert consuming["concurrency"] == len(labels) + 3
    assert psutil.wait_procs(children, timeout=DEADLINE)[1] == []


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"PROCESSOR_DEVICES": "4"}, "PROCESSOR_DEVICES names 4, but the driver has 0 (GPU-aaaa), 1 (GPU-bbbb)."),
        (
            {"PROCESSOR_DEVICES": "cpu", "REQUIRE_GPU": "true"},
            "PROCESSOR_DEVICES must not name cpu while REQUIRE_GPU is true: leave one of them out.",
        ),
    ],
)
def test_unusable_devices_give_the_exit_status(tmp_path: Path, settings: dict[str, str], sentence: str) -> None:
    with processor(tmp_path, "work", PATH=path_with_driver(tmp_path), **settings) as running:
        _, stderr = running.communicate(timeout=DEADLINE)
    assert running.returncode == ExitCode.CONFIG
    assert stderr.splitlines()[-1] == sentence


# --- encrypted models ---

#: Prints the key only to a process with the variable TOKEN, as the client of a key service needs credentials.
KEY_PROGRAM = f"import os; print('{base64.b64encode(bytes(range(32))).decode()}' if 'TOKEN' in os.environ else '')"


@pytest.fixture
def memory() -> Iterator[Path]:
    yield from memory_folder()


@pytest.mark.slow
def test_key_command_runs_with_the_services_credentials(tmp_path: Path, memory: Path) -> None:
    command = f'{sys.executable} -c "{KEY_PROGRAM}"'
    write_demo_model(tmp_path / "models")
    key = tmp_path / "key"
    key.touch(mode=0o600)
    key.write_text(bytes(range(32)).hex())
    assert store_in(tmp_path / "models", key_file=key, plain_dir=memory).seal(DEMO_MODEL_NAME)
    settings = {"MODEL_NAME": DEMO_MODEL_NAME, "MODEL_FILE_DIR": "models", "MODEL_PLAIN_DIR": str(memory)}
    with processor(tmp_path, MODEL_KEY_COMMAND=command, TOKEN="1", **settings) as running:
        lines = lines_until(running, "worker_ready")
        running.send_signal(signal.SIGTERM)
        assert running.wait(DEADLINE) == ExitCode.OK
    assert not any(bytes(range(32)).hex() in str(line) or "AAECAwQF" in str(line) for line in lines)


def test_key_that_cannot_be_read_prevents_the_start(tmp_path: Path) -> None:
    with processor(tmp_path, MODEL_KEY_COMMAND=f'{sys.executable} -c "{KEY_PROGRAM}"') as running:
        _, stderr = running.communicate(timeout=DEADLINE)
    assert running.returncode == ExitCode.UNAVAILABLE
    (refusal,) = (line for line in map(json.loads, stderr.splitlines()) if line["event"] == "startup_failed")
    assert refusal["error"] == "MODEL_KEY_COMMAND does not give 32 bytes in base64 or hexadecimal"
