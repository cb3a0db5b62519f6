"""Test `./start_local.sh` in the foreground, from another terminal, and on machines without its requirements."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
import soundfile

from demo.centre_model import DEMO_MODEL_NAME
from devstack.environment import free_ports
from tests.e2e.checkout import Checkout
from tests.e2e.watcher import PATIENCE

pytestmark = pytest.mark.slow

#: Commands that the script itself calls.
COMMANDS = ("bash", "env", "readlink", "cat", "cksum", "grep", "sed")
UNAVAILABLE, INTERRUPTED, NOT_RUNNING, USAGE = 69, 130, 3, 64


@pytest.fixture
def bare_checkout(tmp_path: Path) -> Iterator[Checkout]:
    """Return a checkout without a virtual environment."""
    checkout = Checkout(tmp_path / "checkout")
    yield checkout
    assert not checkout.processes()


@pytest.fixture
def checkout(bare_checkout: Checkout) -> Checkout:
    bare_checkout.borrow_environment()
    return bare_checkout


@pytest.fixture
def bare_path(tmp_path: Path) -> str:
    """Return a PATH with only the commands that every machine has."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for command in COMMANDS:
        found = shutil.which(command)
        assert found, command
        (folder / command).symlink_to(found)
    return str(folder)


def output_until(process: subprocess.Popen[str], mark: str) -> str:
    """Return the output up to the line with `mark`; fail if the process ends before."""
    assert process.stdout is not None
    output = ""
    while mark not in output:
        line = process.stdout.readline()
        assert line, output
        output += line
    return output


def test_foreground_status_and_interrupt(checkout: Checkout) -> None:
    with checkout.start(**free_ports()) as foreground:
        output = output_until(foreground, "Press Ctrl-C to stop.")
        check_welcome(output, checkout.root / ".env")
        (address,) = re.findall(r"^ +address +(\S+)", output, re.MULTILINE)
        status = checkout.run("status")
        assert (status.returncode, status.stderr) == (0, "")
        assert status.stdout.startswith(f"running at {address}, process {foreground.pid}\n")
        assert set(services_in(status.stdout)) == {"api", "processor", "uploader"}
        check_restart(checkout, foreground)
        check_printed_request(output, foreground)
        check_separate(checkout, re.findall(r"http\S+/song\.flac", output)[0] + ".not")
        second = checkout.run(**free_ports())
        assert (second.returncode, second.stdout) == (UNAVAILABLE, "")
        assert second.stderr == "the services are running already; ./start_local.sh stop ends them\n"
        foreground.send_signal(signal.SIGINT)
        foreground.send_signal(signal.SIGTERM)  # within a second of the first: the same wish
        output_until(foreground, "stopping\n")
        assert foreground.wait(PATIENCE) == 0
    assert checkout.run("status").returncode == NOT_RUNNING
    # The demo model and its lists are apart from the user's models.
    assert (checkout.root / ".local" / "demo-models" / DEMO_MODEL_NAME).is_file()
    assert not (checkout.root / "models").exists()


def services_in(status: str) -> dict[str, tuple[str, int]]:
    """Return the state and the process of each service that `status` has printed."""
    found = re.findall(r"^  (\w+) +(\w+), process (\d+)", status, re.MULTILINE)
    return {name: (state, int(pid)) for name, state, pid in found}


def check_restart(checkout: Checkout, foreground: subprocess.Popen[str]) -> None:
    """Kill a service, which is then started again."""
    _, pid = services_in(checkout.run("status").stdout)["uploader"]
    os.kill(pid, signal.SIGKILL)
    output_until(foreground, "uploader was killed by SIGKILL; it is started again in 1 s\n")
    output_until(foreground, "uploader is ready")
    status = checkout.run("status").stdout
    assert "1 restart, the last time it was killed by SIGKILL" in status
    assert services_in(status)["uploader"][1] != pid


def check_printed_request(output: str, foreground: subprocess.Popen[str]) -> None:
    """Run the request as it was printed; its webhook appears on the screen."""
    (request,) = re.findall(r"^ +(curl [^\n]+\\\n[^\n]+\\\n[^\n]+/generate)$", output, re.MULTILINE)
    answer = subprocess.run(["bash", "-c", request], capture_output=True, text=True, timeout=PATIENCE, check=True)
    task = json.loads(answer.stdout)["task_uuid"]
    output_until(foreground, "A webhook has arrived. Its signature is verified.\n")
    assert '"status": "success"' in output_until(foreground, '"status"')
    assert task


def check_separate(checkout: Checkout, missing: str) -> None:
    """Separate a file, named relative to the user's folder, and `missing`, a URL without song, as the services run."""
    user = checkout.root.parent / "user"
    user.mkdir()
    (user / "my song.flac").symlink_to(checkout.root / ".local" / "demo-song" / "mixture.flac")
    script = str(checkout.root / "start_local.sh")
    run = checkout.run_in(user, script, "separate", "my song.flac", "missing.wav")
    assert (run.returncode, run.stdout) == (2, "")
    assert "missing.wav: there is no such file" in run.stderr
    run = checkout.run_in(user, script, "separate", "--format", "flac", "my song.flac", missing)
    assert run.returncode == 1, run.stderr
    assert f"{missing}: " in run.stderr
    stems = sorted(path for path in (user / "stems").rglob("*") if path.is_file())
    assert [path.relative_to(user) for path in stems] == [
        Path("stems/my song/instrumental.flac"),
        Path("stems/my song/vocals.flac"),
    ]
    assert [str(path) in run.stdout for path in stems] == [True, True]
    assert [soundfile.info(path).duration for path in stems] == [24.0, 24.0]


def check_welcome(output: str, env_file: Path) -> None:
    """Check that the printed credentials work, and that they are in a private file."""
    ((username, password),) = re.findall(r"^ +curl -u '?(\w+):([\w-]+)'? ", output, re.MULTILINE)
    (address,) = re.findall(r"^ +(http\S+)/generate$", output, re.MULTILINE)
    assert env_file.stat().st_mode & 0o777 == 0o600
    assert f"BASIC_AUTH_PASSWORD={password}\n" in env_file.read_text()
    assert len(password) >= 16
    for credentials, status in (((username, password), 400), ((username, "password"), 401)):
        answer = requests.post(f"{address}/generate", json={}, auth=credentials, timeout=PATIENCE)
        assert answer.status_code == status


def test_stop_from_another_terminal_during_the_start(checkout: Checkout) -> None:
    own = "BASIC_AUTH_USERNAME=me\nBASIC_AUTH_PASSWORD=my own password\nMODEL_NAME=uvr_demo_centre_vocals.onnx"
    (checkout.root / ".env").write_text(own)
    with checkout.start(**free_ports()) as foreground:
        output_until(foreground, "is ready")  # the first service; the processor still loads its model
        assert "starting" in checkout.run("status").stdout
        stop = checkout.run("stop")
        assert (stop.returncode, stop.stdout) == (0, "stopped\n")
        assert foreground.wait(PATIENCE) == INTERRUPTED
    content = (checkout.root / ".env").read_text()
    assert content.startswith(f"{own}\nWEBHOOK_SECRET=whsec_")
    assert content.count("PASSWORD") == 1
    assert (checkout.root / ".env").stat().st_mode & 0o777 == 0o600
    assert checkout.run("stop").stdout == "not running\n"


def test_unreachable_broker_is_named_while_the_services_wait(checkout: Checkout) -> None:
    with checkout.start(**free_ports(), KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:1") as foreground:
        output = output_until(foreground, "is waiting. ")
        foreground.terminate()
        assert foreground.wait(PATIENCE) == INTERRUPTED
    assert "127.0.0.1:1" in output
    assert "refused" in output


def test_port_in_use(checkout: Checkout) -> None:
    ports = free_ports()
    with socket.create_server(("127.0.0.1", int(ports["API_PORT"]))):
        run = checkout.run(**ports)
    assert (run.returncode, run.stdout) == (UNAVAILABLE, "")
    assert run.stderr.startswith(f"API_PORT={ports['API_PORT']} cannot be listened on")
    assert run.stderr.count("\n") == 1


def test_invalid_setting(checkout: Checkout) -> None:
    run = checkout.run(**free_ports(), MAX_AUDIO_SECONDS="long")
    assert (run.returncode, run.stdout) == (UNAVAILABLE, "")
    assert run.stderr.startswith("MAX_AUDIO_SECONDS: ")
    assert run.stderr.count("\n") == 1


def test_kafka_that_cannot_be_fetched(checkout: Checkout, bare_path: str, tmp_path: Path) -> None:
    run = checkout.run("--kafka", "demo", PATH=bare_path, JAVA_HOME="", UVR_TOOLS_DIR=str(tmp_path / "tools"))
    assert (run.returncode, run.stdout) == (UNAVAILABLE, "")
    assert re.fullmatch(r"(fetching kafka-\S+\n)?[^\n]+: install Maven \(the command mvn\)\n", run.stderr)


def test_machine_without_python(bare_checkout: Checkout, bare_path: str) -> None:
    run = bare_checkout.run("demo", PATH=bare_path)
    assert (run.returncode, run.stdout) == (1, "")
    assert re.fullmatch(r"Python 3\.\d+[^\n]* is needed: install it, or set PYTHON to one\.\n", run.stderr)


def test_python_that_is_named_but_missing(bare_checkout: Checkout, bare_path: str) -> None:
    run = bare_checkout.run("demo", PATH=bare_path, PYTHON="/nonexistent/python")
    assert (run.returncode, run.stdout, run.stderr) == (1, "", "PYTHON=/nonexistent/python is not a command.\n")


def test_installation_that_does_not_work_is_not_recorded(bare_checkout: Checkout) -> None:
    """The installers succeed, but the packages are elsewhere."""
    bin_folder = bare_checkout.root / ".venv" / "bin"
    bin_folder.mkdir(parents=True)
    for command, script in (("python", '[[ "$*" != *audio_separator* ]]'), ("uv", "exit 0")):
        (bin_folder / command).write_text(f"#!/usr/bin/env bash\n{script}\n")
        (bin_folder / command).chmod(0o755)
    run = bare_checkout.run("install")
    assert run.returncode == 1
    assert "cannot be imported" in run.stderr
    assert not (bin_folder.parent / ".installed").exists()


def test_symbolic_link_and_unhelpful_variables(checkout: Checkout, tmp_path: Path) -> None:
    (tmp_path / "uvr").symlink_to(checkout.root / "start_local.sh")
    variables = {"CDPATH": "/", "PYTHONSAFEPATH": "1", "PIP_TARGET": "/nonexistent", "PYTHONPATH": "/nonexistent"}
    run = checkout.run_in(tmp_path, "./uvr", "status", **variables)
    assert (run.returncode, run.stdout, run.stderr) == (NOT_RUNNING, "not running\n", "")


def test_status_and_help_install_nothing(bare_checkout: Checkout, bare_path: str) -> None:
    answers = {
        word: bare_checkout.run(word, PATH=bare_path).returncode for word in ("status", "stop", "--help", "dance")
    }
    assert answers == {"status": NOT_RUNNING, "stop": 0, "--help": 0, "dance": USAGE}
    assert not (bare_checkout.root / ".venv").exists()
