"""`./start_local.sh` in the foreground, from another terminal, and on machines where something is missing."""

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

#: What the script itself calls.
COMMANDS = ("bash", "env", "dirname", "cat", "cksum", "grep", "sed")
UNAVAILABLE, INTERRUPTED, NOT_RUNNING, USAGE = 69, 130, 3, 64


@pytest.fixture
def bare_checkout(tmp_path: Path) -> Iterator[Checkout]:
    """Without a virtual environment."""
    checkout = Checkout(tmp_path / "checkout")
    yield checkout
    assert not checkout.processes()


@pytest.fixture
def checkout(bare_checkout: Checkout) -> Checkout:
    bare_checkout.borrow_environment()
    return bare_checkout


@pytest.fixture
def bare_path(tmp_path: Path) -> str:
    """A PATH with what every machine has, and nothing else."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for command in COMMANDS:
        found = shutil.which(command)
        assert found, command
        (folder / command).symlink_to(found)
    return str(folder)


def said_until(process: subprocess.Popen[str], sign: str) -> str:
    """Everything up to the line with `sign`, which must come before the end."""
    assert process.stdout is not None
    said = ""
    while sign not in said:
        line = process.stdout.readline()
        assert line, said
        said += line
    return said


def test_a_life_in_the_foreground(checkout: Checkout) -> None:
    with checkout.start(**free_ports()) as foreground:
        said = said_until(foreground, "Press Ctrl-C to stop.")
        check_welcome(said, checkout.root / ".env")
        (address,) = re.findall(r"^ +address +(\S+)", said, re.MULTILINE)
        status = checkout.run("status")
        assert (status.returncode, status.stdout) == (0, f"running at {address}, process {foreground.pid}\n")
        second = checkout.run(**free_ports())
        assert (second.returncode, second.stdout) == (UNAVAILABLE, "")
        assert second.stderr == "the services are running already; ./start_local.sh stop ends them\n"
        foreground.send_signal(signal.SIGINT)
        assert said_until(foreground, "stopping\n").strip() == "stopping"
        assert foreground.wait(PATIENCE) == 0
    assert checkout.run("status").returncode == NOT_RUNNING


def check_welcome(said: str, env_file: Path) -> None:
    """The credentials work, are nobody else's, and stand in a file that is nobody else's."""
    ((username, password),) = re.findall(r"^ +curl -u '?(\w+):([\w-]+)'? ", said, re.MULTILINE)
    (address,) = re.findall(r"^ +(http\S+)/generate$", said, re.MULTILINE)
    assert env_file.stat().st_mode & 0o777 == 0o600
    assert f"BASIC_AUTH_PASSWORD={password}\n" in env_file.read_text()
    assert len(password) >= 16
    for credentials, status in (((username, password), 400), ((username, "password"), 401)):
        answer = requests.post(f"{address}/generate", json={}, auth=credentials, timeout=PATIENCE)
        assert answer.status_code == status


def test_stopped_from_another_terminal_while_starting(checkout: Checkout) -> None:
    own = "BASIC_AUTH_USERNAME=me\nBASIC_AUTH_PASSWORD=my own\nMODEL_NAME=uvr_demo_centre_vocals.onnx"
    (checkout.root / ".env").write_text(own)
    with checkout.start(**free_ports()) as foreground:
        said_until(foreground, "is ready")  # the first service; the processor loads its model yet
        assert "starting" in checkout.run("status").stdout
        stop = checkout.run("stop")
        assert (stop.returncode, stop.stdout) == (0, "stopped\n")
        assert foreground.wait(PATIENCE) == INTERRUPTED
    held = (checkout.root / ".env").read_text()
    assert held.startswith(f"{own}\nWEBHOOK_SECRET=whsec_")
    assert held.count("PASSWORD") == 1
    assert (checkout.root / ".env").stat().st_mode & 0o777 == 0o600
    assert checkout.run("stop").stdout == "not running\n"


def test_a_port_that_is_taken(checkout: Checkout) -> None:
    ports = free_ports()
    with socket.create_server(("127.0.0.1", int(ports["API_PORT"]))):
        run = checkout.run(**ports)
    assert (run.returncode, run.stdout) == (UNAVAILABLE, "")
    assert run.stderr.startswith(f"API_PORT={ports['API_PORT']} cannot be listened on")
    assert run.stderr.count("\n") == 1


def test_a_setting_that_makes_no_sense(checkout: Checkout) -> None:
    run = checkout.run(**free_ports(), MAX_AUDIO_SECONDS="long")
    assert (run.returncode, run.stdout) == (UNAVAILABLE, "")
    assert run.stderr.startswith("MAX_AUDIO_SECONDS: ")
    assert run.stderr.count("\n") == 1


def test_kafka_where_it_cannot_be_fetched(checkout: Checkout, bare_path: str, tmp_path: Path) -> None:
    run = checkout.run("--kafka", "demo", PATH=bare_path, JAVA_HOME="", UVR_TOOLS_DIR=str(tmp_path / "tools"))
    assert (run.returncode, run.stdout) == (UNAVAILABLE, "")
    assert re.fullmatch(r"(fetching kafka-\S+\n)?[^\n]+: install Maven \(the command mvn\)\n", run.stderr)


def test_a_machine_without_python(bare_checkout: Checkout, bare_path: str) -> None:
    run = bare_checkout.run("demo", PATH=bare_path)
    assert (run.returncode, run.stdout) == (1, "")
    assert re.fullmatch(r"Python 3\.\d+[^\n]* is needed: install it, or set PYTHON to one\.\n", run.stderr)


def test_questions_install_nothing(bare_checkout: Checkout, bare_path: str) -> None:
    answers = {
        word: bare_checkout.run(word, PATH=bare_path).returncode for word in ("status", "stop", "--help", "dance")
    }
    assert answers == {"status": NOT_RUNNING, "stop": 0, "--help": 0, "dance": USAGE}
    assert not (bare_checkout.root / ".venv").exists()
