"""Test the life cycle of a server process, with small real servers."""

import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from devstack.errors import ServerStartError
from devstack.processes import process as process_module
from devstack.processes.process import ServerProcess, free_port

REPOSITORY = Path(__file__).resolve().parents[2]
DEADLINE = 30.0

# Answers every connection with one byte; argv: port, and the reaction to SIGTERM ("deaf" or "polite").
SERVER = """
import signal, socket, sys
if sys.argv[2:] == ["deaf"]:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if sys.argv[2:] == ["polite"]:  # with its own handler, as in the JVM
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
print("listening", flush=True)
while True:
    connection, _ = server.accept()
    connection.sendall(b"!")
    connection.close()
"""


# Like `SERVER`, with threads that are never idle.
BUSY_SERVER = f"""
import threading
def turn():
    while True:
        pass
for _ in range(20):
    threading.Thread(target=turn, daemon=True).start()
{SERVER}
"""


def answers(port: int, timeout: float = 5.0) -> bool:
    try:
        with closing(socket.create_connection(("127.0.0.1", port), timeout)) as connection:
            return connection.recv(1) == b"!"
    except OSError:
        return False


def python(script: str, *arguments: str) -> list[str]:
    return [sys.executable, "-c", script, *arguments]


@pytest.fixture
def port() -> int:
    return free_port()


Make = Callable[..., ServerProcess]


@pytest.fixture
def make(tmp_path: Path, port: int) -> Iterator[Make]:
    """Create processes that are killed at the end of the test."""
    servers: list[ServerProcess] = []

    def make(
        *mode: str,
        command: list[str] | None = None,
        ready: Callable[[], bool] | None = None,
        ready_timeout: float = DEADLINE,
        stop_grace: float = DEADLINE,
    ) -> ServerProcess:
        server = ServerProcess(
            "echo",
            command or python(SERVER, str(port), *mode),
            log_file=tmp_path / "logs" / "echo.log",
            ready=ready or (lambda: answers(port)),
            ready_timeout=ready_timeout,
            stop_grace=stop_grace,
        )
        servers.append(server)
        return server

    yield make
    for server in servers:
        server.kill()


def states(server: ServerProcess) -> list[str]:
    """Return the state of each thread: "R" runs, "S" sleeps, "T" is stopped."""
    threads = Path(f"/proc/{server.pid}/task").glob("*/stat")
    return [thread.read_text().rpartition(")")[2].split()[0] for thread in threads]


def wait_for_end(pidfd: int) -> None:
    with closing(os.fdopen(pidfd)):
        readable, _, _ = select.select([pidfd], [], [], DEADLINE)
    assert readable, f"the process still runs after {DEADLINE} s"


def test_start_returns_when_the_server_answers_and_stop_when_it_has_ended(make: Make, port: int) -> None:
    server = make()
    server.start()
    assert answers(port)

    server.stop()
    assert not server.running
    assert server.pid is None
    assert not answers(port)


def test_start_twice_keeps_the_running_process(make: Make) -> None:
    server = make()
    server.start()
    pid = server.pid
    server.start()
    assert server.pid == pid


def test_restart_runs_the_same_command_in_a_new_process(make: Make, port: int) -> None:
    server = make()
    server.start()
    first = server.pid
    server.restart()
    assert server.pid != first
    assert answers(port)


def test_stop_and_kill_before_start_and_after_the_end_do_nothing(make: Make) -> None:
    server = make()
    server.stop()
    server.kill()
    server.start()
    server.kill()
    server.stop()
    server.kill()
    assert not server.running


def test_killed_server_can_start_again(make: Make, port: int) -> None:
    server = make("deaf")
    server.start()
    server.kill()
    assert not answers(port)
    server.start()
    assert answers(port)


def test_server_that_ignores_sigterm_is_killed_after_the_grace_period(make: Make, port: int) -> None:
    server = make("deaf", stop_grace=0.2)
    server.start()
    server.stop()
    assert not answers(port)


def test_paused_server_hangs_until_it_is_resumed(make: Make, port: int) -> None:
    server = make()
    server.start()
    server.pause()
    assert not answers(port, timeout=0.3)
    server.resume()
    assert answers(port)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_all_threads_of_a_paused_server_are_stopped(make: Make, port: int) -> None:
    server = make(command=python(BUSY_SERVER, str(port)))
    server.start()
    for _ in range(10):
        server.pause()
        assert set(states(server)) == {"T"}
        server.resume()


def test_paused_server_can_be_stopped_gracefully(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    server = make("polite", stop_grace=5.0)
    server.start()
    server.pause()
    server.stop()
    assert not server.running
    assert "killing" not in caplog.text


def test_server_that_ends_at_once_fails_with_its_exit_code_and_the_end_of_its_log(make: Make) -> None:
    # The deadline is far away: only the end of the process can end the wait.
    server = make(command=python("import sys; print('no licence found'); sys.exit(3)"), ready_timeout=3600.0)
    with pytest.raises(ServerStartError, match=r"(?s)code 3 .*no licence found"):
        server.start()
    assert not server.running


def test_error_shows_the_log_of_this_run_and_the_file_keeps_all_runs(make: Make, tmp_path: Path) -> None:
    runs = iter(["first", "second"])
    for word in runs:
        server = make(command=python(f"print('{word} failure'); raise SystemExit(1)"))
        with pytest.raises(ServerStartError) as caught:
            server.start()
        assert f"{word} failure" in str(caught.value)
    assert "first failure" not in str(caught.value)
    assert (tmp_path / "logs" / "echo.log").read_text().split() == ["first", "failure", "second", "failure"]


def test_command_that_does_not_exist_is_named(make: Make) -> None:
    server = make(command=["/nonexistent/broker"])
    with pytest.raises((ServerStartError, FileNotFoundError), match="/nonexistent/broker"):
        server.start()


def test_server_that_never_answers_is_killed_after_the_timeout(make: Make, port: int) -> None:
    pids: list[int | None] = []

    def never() -> bool:
        pids.append(server.pid)
        return False

    server = make(ready=never, ready_timeout=0.5)
    with pytest.raises(ServerStartError, match="did not answer within"):
        server.start()
    assert not server.running
    assert pids[0] is not None
    assert not answers(port)


def test_another_program_on_the_port_is_not_mistaken_for_the_server(make: Make, port: int) -> None:
    other = make()
    other.start()

    def answers_after_the_end() -> bool:
        if server.pid is not None:
            os.waitid(os.P_PID, server.pid, os.WEXITED | os.WNOWAIT)
        return answers(port)

    server = make(command=python("raise SystemExit(98)"), ready=answers_after_the_end)
    with pytest.raises(ServerStartError, match="ended with code 98"):
        server.start()


def test_interrupt_during_the_start_leaves_no_process(make: Make, port: int) -> None:
    def interrupted() -> bool:
        if answers(port):
            raise KeyboardInterrupt
        return False

    server = make(ready=interrupted)
    with pytest.raises(KeyboardInterrupt):
        server.start()
    assert not server.running
    assert not answers(port)


def test_stdin_is_written_at_every_start(tmp_path: Path) -> None:
    secret, copied = b"secret=42\n", tmp_path / "copied"
    script = "import sys, signal; open(sys.argv[1], 'w').write(sys.stdin.read()); signal.pause()"
    server = ServerProcess(
        "reader",
        python(script, str(copied)),
        log_file=tmp_path / "log",
        ready=lambda: copied.exists() and copied.read_bytes() == secret,
        stdin=secret,
    )
    for _ in range(2):
        with server:
            copied.unlink()


def test_server_outlives_the_thread_that_started_it(make: Make, port: int) -> None:
    server = make()
    starter = threading.Thread(target=server.start)
    starter.start()
    starter.join(DEADLINE)
    assert answers(port)
    assert server.running


@pytest.mark.skipif(sys.platform != "linux", reason="the death signal is Linux's")
def test_server_dies_with_a_parent_that_is_killed(tmp_path: Path, port: int) -> None:
    parent_script = f"""
import signal, sys
from pathlib import Path
sys.path.insert(0, {str(REPOSITORY)!r})
from tests.devstack.test_server_process import SERVER, answers, python
from devstack.processes.process import ServerProcess
server = ServerProcess(
    "echo", python(SERVER, "{port}", "deaf"), log_file=Path({str(tmp_path / "log")!r}), ready=lambda: answers({port})
)
server.start()
print(server.pid, flush=True)
signal.pause()
"""
    with subprocess.Popen(python(parent_script), stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pidfd = os.pidfd_open(int(parent.stdout.readline()))
        parent.send_signal(signal.SIGKILL)
    wait_for_end(pidfd)
    assert not answers(port)


def test_free_ports_differ_can_be_bound_and_are_not_ephemeral() -> None:
    ports = [free_port() for _ in range(50)]
    assert len(set(ports)) == 50
    for number in ports:
        with socket.create_server(("127.0.0.1", number)):
            assert number < 32_768


def test_port_in_use_is_not_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        monkeypatch.setattr(process_module, "_PORTS", range(number, number + 1))
        with pytest.raises(ServerStartError, match="no free TCP port"):
            free_port()
