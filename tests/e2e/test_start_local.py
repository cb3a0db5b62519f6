"""Test `./start_local.sh` in the foreground, from another terminal, and on machines without its requirements."""

from __future__ import annotations

import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from devstack.environment import free_ports
from tests.e2e.checkout import Checkout
from tests.e2e.watcher import PATIENCE

pytestmark = pytest.mark.slow

#: Commands that the script itself calls.
COMMANDS = ("bash", "env", "dirname", "cat", "cksum", "grep", "sed")
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
        assert (status.returncode, status.stdout) == (0, f"running at {address}, process {foreground.pid}\n")
        second = checkout.run(**free_ports())
        assert (second.returncode, second.stdout) == (UNAVAILABLE, "")
        assert second.stderr == "the services are running already; ./start_local.sh stop ends them\n"
        foreground.send_signal(signal.SIGINT)
        assert output_until(foreground, "stopping\n").strip() == "stopping"
        assert foreground.wait(PATIENCE) == 0
    assert checkout.run("status").returncode == NOT_RUNNING


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


def test_status_and_help_install_nothing(bare_checkout: Checkout, bare_path: str) -> None:
    answers = {
        word: bare_checkout.run(word, PATH=bare_path).returncode for word in ("status", "stop", "--help", "dance")
    }
    assert answers == {"status": NOT_RUNNING, "stop": 0, "--help": 0, "dance": USAGE}
    assert not (bare_checkout.root / ".venv").exists()
