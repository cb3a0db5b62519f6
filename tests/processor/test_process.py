"""``python -m processor`` as a process: how it starts, what it says, how it ends."""

from __future__ import annotations

import json
import signal
import socket
from pathlib import Path
from uuid import uuid4

import psutil
import pytest

from demo import tiny_models
from demo.centre_model import DEMO_MODEL_NAME
from pipeline.lifecycle import ExitCode
from pipeline.messages import SeparationResult, SeparationTask, from_message, to_message
from pipeline.transport.embedded import EmbeddedTransport
from processor.__main__ import main
from tests.processor.audio import noise, write_pcm
from tests.processor.running import DEADLINE, ask, port_of, processor
from tests.support.log_lines import lines_until
from tests.support.source_server import SourceServer


@pytest.mark.slow
def test_from_start_to_stop(tmp_path: Path, model_dir: Path) -> None:
    """It says that it is ready when it is, does a job, and ends with its child, leaving no working files."""
    song = write_pcm(tmp_path / "song.wav", noise(0.5)).read_bytes()
    task = SeparationTask(task_uuid=uuid4(), audio="", hook_url="http://127.0.0.1/hook")
    settings = {"MODEL_NAME": DEMO_MODEL_NAME, "MODEL_FILE_DIR": str(model_dir), "ALLOW_PRIVATE_NETWORKS": "true"}
    with SourceServer() as source, processor(tmp_path, **settings) as running:
        source.serve_bytes("/song", song)
        lines = lines_until(running, "consuming")
        port = port_of(lines)
        ready, health = ask(port, "/ready"), ask(port, "/health")
        children = psutil.Process(running.pid).children(recursive=True)
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
    assert ready == (
        200,
        {
            "status": "ready",
            "components": {name: {"status": "ready"} for name in ("broker", "consumption", "model", "handoff")},
        },
    )
    assert (health[0], health[1]["status"]) == (200, "healthy")
    assert status == ExitCode.OK
    assert children
    assert psutil.wait_procs(children, timeout=DEADLINE)[1] == []
    assert [path.name for path in (tmp_path / "data" / "tmp").iterdir()] == [".job-files.lock"]
    (ready_child,) = (line for line in lines if line["event"] == "separation_process_ready")
    assert (ready_child["service"], ready_child["model"], ready_child["device"]) == (
        "processor",
        DEMO_MODEL_NAME,
        "cpu",
    )
    # All that is logged about the job can be found by it.
    assert {line["event"] for line in lines if line.get("task_uuid") == str(task.task_uuid)} >= {
        "downloaded",
        "separating",
        "stem_handed_off",
        "separated",
        "job_settled",
    }


@pytest.mark.slow
def test_without_its_model_it_refuses_to_start(tmp_path: Path) -> None:
    """Neither on disk nor to be downloaded: one sentence, and no topic is so much as looked at."""
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        nobody = f"http://127.0.0.1:{reserved.getsockname()[1]}"
    tiny_models.list_demucs(tmp_path / "models", "absent.yaml", "absent.th", nobody)
    settings = {"MODEL_NAME": "absent.yaml", "MODEL_FILE_DIR": "models", "ALLOW_PRIVATE_NETWORKS": "true"}
    with processor(tmp_path, **settings) as running:
        _, stderr = running.communicate(timeout=DEADLINE)
    lines = [json.loads(line) for line in stderr.splitlines()]

    assert running.returncode == 69
    (refusal,) = (line for line in lines if line["event"] == "cannot_run")
    assert refusal["code"] == "model_unavailable"
    assert refusal["error"] == (
        "the model absent.yaml is not complete in MODEL_FILE_DIR and cannot be downloaded (source unavailable): put "
        "its files there, let MODEL_NAME name a model that is there, or allow the download"
    )
    assert "consuming" not in {line["event"] for line in lines}


def test_told_to_stop_while_it_loads_it_stops(tmp_path: Path, model_dir: Path) -> None:
    settings = {"MODEL_NAME": DEMO_MODEL_NAME, "MODEL_FILE_DIR": str(model_dir)}
    with processor(tmp_path, **settings) as running:
        parent = psutil.Process(running.pid)
        while not parent.children():
            assert running.poll() is None
        children = parent.children()
        running.send_signal(signal.SIGTERM)
        lines = lines_until(running, "stopped")
        assert running.wait(DEADLINE) == ExitCode.OK
    assert {"model_loaded", "separation_process_ready"}.isdisjoint(line["event"] for line in lines)
    assert psutil.wait_procs(children, timeout=DEADLINE)[1] == []
    assert [path.name for path in (tmp_path / "data" / "tmp").iterdir()] == [".job-files.lock"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("REQUIRE_GPU", "perhaps"),
        ("MODEL_NAME", "../escape.onnx"),
        ("MAX_AUDIO_SECONDS", "-1"),
        ("PROCESSOR_HEALTH_PORT", "eighty"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, value: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(name, value)

    assert main() is ExitCode.CONFIG

    (sentence,) = capsys.readouterr().err.splitlines()
    assert sentence.startswith(f"{name}: ")
    assert value not in sentence
    assert list(tmp_path.iterdir()) == []


def test_a_setting_that_cannot_be_used_is_the_exit_status(tmp_path: Path) -> None:
    with processor(tmp_path, REQUIRE_GPU="perhaps") as running:
        _, stderr = running.communicate(timeout=DEADLINE)
    assert running.returncode == 78
    assert stderr.startswith("REQUIRE_GPU: ")
    assert len(stderr.splitlines()) == 1


def test_a_working_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with processor(tmp_path, TEMP_DIR=str(tmp_path / "file")) as running:
        _, stderr = running.communicate(timeout=DEADLINE)
    assert running.returncode == ExitCode.UNAVAILABLE
    (line,) = (json.loads(text) for text in stderr.splitlines() if "cannot_run" in text)
    assert line["error"] == "TEMP_DIR cannot be used: File exists"
