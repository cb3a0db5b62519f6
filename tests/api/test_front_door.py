"""The server under clients that send slowly, read slowly, open many connections, or send ambiguous requests."""

from __future__ import annotations

import http.client
import json
import resource
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.responses import Response

from api.errors import install_error_handlers
from api.server.addresses import TrustedProxies
from api.server.connections import ConnectionLimits, available_connections
from api.server.framing import UnambiguousLength
from api.server.server import ApiServer, Endpoint, bind
from config import Settings
from pipeline.service.shutdown import StopSignal
from tests.api.conftest import CREDENTIALS, Service, serve
from tests.api.http_client import DEADLINE, Client
from tests.api.test_process import CREDENTIALS as PROCESS_CREDENTIALS
from tests.api.test_process import credentials, process
from tests.support.log_lines import lines_until

PATIENT = 1000.0
AUTHORIZATION = Client(0, CREDENTIALS).authorization
#: What a client sends before it goes silent.
BEGINNINGS = {
    "silent": b"",
    "half a header": b"GET /health HTTP/1.1\r\nHost: api\r\n",
    "half a body": f"POST /echo HTTP/1.1\r\nHost: api\r\nAuthorization: {AUTHORIZATION}\r\n"
    "Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n{".encode(),
}


def limits(
    total: int = 100,
    per_address: int = 100,
    request_timeout: float = PATIENT,
    write_timeout: float = PATIENT,
    exempt: tuple[str, ...] = (),
) -> ConnectionLimits:
    return ConnectionLimits(total, per_address, request_timeout, write_timeout, TrustedProxies(exempt))


def application(busy: threading.Semaphore | None = None, leave: threading.Event | None = None) -> FastAPI:
    """An application with a healthy, a busy, a large and a reading route."""
    app = FastAPI()
    install_error_handlers(app)
    app.add_middleware(UnambiguousLength)

    @app.get("/health")
    async def health() -> str:
        return "healthy"

    @app.get("/busy")
    def work() -> str:
        assert busy is not None
        assert leave is not None
        busy.release()
        leave.wait(DEADLINE)
        return "done"

    @app.get("/large")
    async def large() -> Response:
        return Response(b"x" * 30_000_000)

    @app.post("/echo")
    async def echo(body: dict[str, Any]) -> dict[str, Any]:
        return body

    return app


@contextmanager
def front_door(app: FastAPI, of: ConnectionLimits) -> Iterator[Client]:
    """Run ``app`` behind the server of the API on a free port."""
    stop = StopSignal(DEADLINE)
    sockets = bind("127.0.0.1", 0, "API")
    server = ApiServer([Endpoint(app, sockets, of)], stop, grace=1.0)
    thread = threading.Thread(target=server.run, name="front-door")
    port = sockets[0].getsockname()[1]
    thread.start()
    try:
        yield Client(port, CREDENTIALS)
    finally:
        stop.request("the test ends")
        thread.join(DEADLINE)
        assert not thread.is_alive()


def connect(port: int, source: str = "127.0.0.1") -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=DEADLINE, source_address=(source, 0))


def read_all(connection: socket.socket) -> bytes:
    """Return what arrives until the connection ends, also by a reset."""
    received = b""
    try:
        while part := connection.recv(65536):
            received += part
    except ConnectionResetError:
        pass
    return received


@pytest.mark.parametrize("beginning", BEGINNINGS.values(), ids=BEGINNINGS)
@pytest.mark.parametrize("source", ["127.0.0.1", "127.0.0.2"])
def test_waiting_connections_make_room_for_others(beginning: bytes, source: str) -> None:
    with front_door(application(), limits(total=30, per_address=20)) as client, ExitStack() as stack:
        waiting = [stack.enter_context(connect(client.port, source)) for _ in range(90)]
        for connection in waiting:
            try:
                connection.sendall(beginning)
            except OSError:
                continue  # It was closed already.
        assert client.get("/health").status == 200
        assert client.request("POST", "/echo", b"{}", {"Content-Type": "application/json"}).status == 200


@pytest.mark.parametrize("beginning", BEGINNINGS.values(), ids=BEGINNINGS)
def test_an_incomplete_request_is_ended(beginning: bytes) -> None:
    with front_door(application(), limits(request_timeout=0.2)) as client, connect(client.port) as connection:
        connection.sendall(beginning)
        answer = read_all(connection)
    if not beginning:
        assert answer == b""
        return
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
    assert b"connection: close" in head.lower()
    assert json.loads(body) == {"error": "The request was not complete in time", "details": None}


@pytest.mark.parametrize("beginning", [BEGINNINGS["half a header"] + b"X-Slow: ", BEGINNINGS["half a body"]])
def test_a_request_in_drops_has_no_more_time(beginning: bytes) -> None:
    with front_door(application(), limits(request_timeout=0.3)) as client, connect(client.port) as connection:
        connection.sendall(beginning)
        connection.settimeout(0.01)
        started = time.monotonic()
        answer = b""
        while not answer:
            assert time.monotonic() - started < DEADLINE
            try:
                connection.sendall(b"x")
                answer = connection.recv(1000)
            except TimeoutError:
                continue
    assert answer.startswith(b"HTTP/1.1 408")


def test_a_refused_body_is_not_read_for_ever() -> None:
    """A client that got its answer and goes on sending its body has no more time than any other."""
    with front_door(application(), limits(request_timeout=0.2)) as client, connect(client.port) as connection:
        connection.sendall(b"POST /nowhere HTTP/1.1\r\nHost: api\r\nContent-Length: 1000000000\r\n\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 404")
        connection.settimeout(0.01)
        is_open, deadline = True, time.monotonic() + DEADLINE
        while is_open:
            assert time.monotonic() < deadline
            try:
                connection.sendall(b"x")
                is_open = bool(connection.recv(1000))
            except TimeoutError:
                continue
            except ConnectionError:
                is_open = False


def test_a_client_that_does_not_read_is_disconnected(capsys: pytest.CaptureFixture[str]) -> None:
    with front_door(application(), limits(write_timeout=0.2)) as client, connect(client.port) as connection:
        connection.sendall(b"GET /large HTTP/1.1\r\nHost: api\r\n\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 200")
        log, deadline = "", time.monotonic() + DEADLINE
        while "connection_overdue" not in log:
            assert time.monotonic() < deadline
            assert client.get("/health").status == 200
            log += capsys.readouterr().out
        assert len(read_all(connection)) < 30_000_000


def test_a_client_that_reads_steadily_gets_everything() -> None:
    with front_door(application(), limits(request_timeout=0.2, write_timeout=0.5)) as client:
        assert len(client.get("/large").body) == 30_000_000


def test_slow_readers_make_room() -> None:
    with front_door(application(), limits(total=16, per_address=16)) as client, ExitStack() as stack:
        for _ in range(40):
            reader = stack.enter_context(connect(client.port))
            with suppress(ConnectionError):
                reader.sendall(b"GET /large HTTP/1.1\r\nHost: api\r\n\r\n")
                reader.recv(100)
        assert client.get("/health").status == 200


def test_requests_in_work_are_never_given_up() -> None:
    busy, leave = threading.Semaphore(0), threading.Event()
    with front_door(application(busy, leave), limits(total=3, per_address=2)) as client, ExitStack() as stack:
        working = []
        for source in ("127.0.0.1", "127.0.0.1", "127.0.0.2"):
            working.append(stack.enter_context(connect(client.port, source)))
            working[-1].sendall(b"GET /busy HTTP/1.1\r\nHost: api\r\nConnection: close\r\n\r\n")
            assert busy.acquire(timeout=DEADLINE)
        with connect(client.port, "127.0.0.3") as late:
            refusal = read_all(late)
        leave.set()
        answers = [read_all(connection) for connection in working]

    head, _, body = refusal.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503 Service Unavailable")
    assert b"retry-after: 5" in head.lower()
    assert json.loads(body)["error"] == "Too many connections: try again later"
    assert all(answer.endswith(b'"done"') for answer in answers)


def test_one_address_cannot_occupy_the_connections_of_others() -> None:
    busy, leave = threading.Semaphore(0), threading.Event()
    with front_door(application(busy, leave), limits(total=100, per_address=2)) as client, ExitStack() as stack:
        for _ in range(2):
            connection = stack.enter_context(connect(client.port, "127.0.0.2"))
            connection.sendall(b"GET /busy HTTP/1.1\r\nHost: api\r\n\r\n")
            assert busy.acquire(timeout=DEADLINE)
        with connect(client.port, "127.0.0.2") as third:
            assert read_all(third).startswith(b"HTTP/1.1 503")
        assert client.get("/health").status == 200
        leave.set()


def test_a_trusted_proxy_has_no_limit_per_address() -> None:
    busy, leave = threading.Semaphore(0), threading.Event()
    with (
        front_door(application(busy, leave), limits(per_address=1, exempt=("127.0.0.0/8",))) as client,
        ExitStack() as stack,
    ):
        for _ in range(5):
            stack.enter_context(connect(client.port)).sendall(b"GET /busy HTTP/1.1\r\nHost: api\r\n\r\n")
            assert busy.acquire(timeout=DEADLINE)
        assert client.get("/health").status == 200
        leave.set()


@pytest.mark.parametrize(
    "head",
    [
        b"POST /echo HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        b"POST /echo HTTP/1.1\r\ntransfer-encoding: chunked\r\ncontent-length: 5\r\n",
        b"POST /health HTTP/1.1\r\nContent-Length: 0\r\nTransfer-Encoding: Chunked\r\n",
        b"POST /echo HTTP/1.0\r\nTransfer-Encoding: chunked\r\n",
    ],
)
def test_an_ambiguous_length_is_refused_and_the_connection_closed(head: bytes) -> None:
    smuggled = b"GET /health HTTP/1.1\r\nHost: api\r\n\r\n"
    with front_door(application(), limits()) as client, connect(client.port) as connection:
        connection.sendall(head + b"Host: api\r\nContent-Type: application/json\r\n\r\n0\r\n\r\n" + smuggled)
        answer = read_all(connection)

    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"HTTP/1.1 ") == 1
    assert "Transfer-Encoding" in json.loads(answer.partition(b"\r\n\r\n")[2])["error"]


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"nonsense\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost : a\r\n\r\n",
    ],
)
def test_what_is_not_http_gets_an_error_in_the_common_form(request_bytes: bytes) -> None:
    with front_door(application(), limits()) as client, connect(client.port) as connection:
        connection.sendall(request_bytes)
        answer = read_all(connection)

    assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert json.loads(answer.partition(b"\r\n\r\n")[2]) == {"error": "The request is not valid HTTP", "details": None}


def test_idle_connections_are_closed_for_new_ones() -> None:
    """A client that keeps every connection open after a request does not keep others out."""
    with front_door(application(), limits(total=20, per_address=20)) as client, ExitStack() as stack:
        for _ in range(100):
            connection = http.client.HTTPConnection("127.0.0.1", client.port, timeout=DEADLINE)
            stack.callback(connection.close)
            connection.request("GET", "/health")
            assert connection.getresponse().read() == b'"healthy"'


def test_shutdown_does_not_wait_for_silent_clients(make_settings: Callable[..., Settings]) -> None:
    with ExitStack() as stack, front_door(application(), limits(request_timeout=0.2)) as client:
        for beginning in BEGINNINGS.values():
            stack.enter_context(connect(client.port)).sendall(beginning)
        assert client.get("/health").status == 200


#: ``python -m api`` as after ``ulimit -n 256``.
_FEW_DESCRIPTORS = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
from api.__main__ import main
sys.exit(main())
"""


@pytest.mark.parametrize("beginning", BEGINNINGS.values(), ids=BEGINNINGS)
def test_a_process_with_few_descriptors_survives_many_connections(tmp_path: Path, beginning: bytes) -> None:
    job = {"audio": "https://93.184.215.14/a.mp3", "hook_url": "https://93.184.215.14/b"}
    with process(tmp_path, "-c", _FEW_DESCRIPTORS, **credentials()) as running, ExitStack() as stack:
        lines = lines_until(running, "listening")
        client = Client(lines[-1]["port"], PROCESS_CREDENTIALS)
        for _ in range(300):
            connection = stack.enter_context(connect(client.port))
            try:
                connection.sendall(beginning)
            except OSError:
                continue
        assert client.get("/health").status == 200
        assert client.post(job).status == 202
        running.terminate()
        _, log = running.communicate(timeout=DEADLINE)
    assert len(log) < 100_000
    assert "Traceback" not in log


def test_a_lack_of_descriptors_closes_waiting_connections(tmp_path: Path) -> None:
    with process(tmp_path, **credentials()) as running, ExitStack() as stack:
        client = Client(lines_until(running, "listening")[-1]["port"], PROCESS_CREDENTIALS)
        assert client.get("/ready").status == 200
        open_files = len(list(Path(f"/proc/{running.pid}/fd").iterdir()))
        resource.prlimit(running.pid, resource.RLIMIT_NOFILE, (open_files + 10, open_files + 10))
        for _ in range(40):
            stack.enter_context(connect(client.port))
        assert client.get("/health").status == 200
        running.terminate()
        _, log = running.communicate(timeout=DEADLINE)
    assert "accept_failed" in log
    assert len(log) < 20_000


def test_the_operators_port_serves_what_the_clients_port_does_not(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port = reserved.getsockname()[1]
    with process(tmp_path, **credentials(), OPERATIONS_PORT=str(port)) as running:
        lines = lines_until(running, "listening")
        client = Client(lines[-1]["port"], CREDENTIALS)
        lines_until(running, "listening")
        operators = Client(port, CREDENTIALS)
        statuses = {
            path: (client.get(path).status, operators.get(path).status)
            for path in ("/health", "/ready", "/metrics", "/docs", "/openapi.json", "/generate")
        }
        document = operators.get("/openapi.json").json
        running.terminate()
        assert running.wait(DEADLINE) == 0

    assert statuses == {
        "/health": (200, 200),
        "/ready": (200, 200),
        "/metrics": (404, 200),
        "/docs": (404, 200),
        "/openapi.json": (404, 200),
        "/generate": (405, 404),
    }
    assert "/generate" in document["paths"]


def test_a_long_path_is_cut_in_the_log(tmp_path: Path) -> None:
    with process(tmp_path, **credentials()) as running:
        lines = lines_until(running, "listening")
        client = Client(lines[-1]["port"], CREDENTIALS)
        answer = client.get("/files/" + "x" * 60_000)
        running.terminate()
        _, log = running.communicate(timeout=DEADLINE)
    assert answer.status == 403
    assert "request_refused" in log
    assert len(log) < 5000


def test_a_flood_of_refusals_leaves_few_lines(own_service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(300):
        assert own_service.client.request("POST", "/generate", b"", {"Authorization": None}).status == 401
    assert capsys.readouterr().out.count("request_refused") <= 60


def test_available_connections_leave_descriptors_for_the_rest_of_the_process() -> None:
    program = "import sys; from api.server.connections import available_connections as a; print(a(int(sys.argv[1])))"

    def available(wanted: int, descriptors: int) -> int:
        script = f"ulimit -n {descriptors}; exec python -c '{program}' {wanted}"
        return int(subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True).stdout)

    assert available(1000, 256) == 80
    assert available(50, 256) == 50
    assert available(1000, 16) == 1
    assert available_connections(10) == 10


def test_x_forwarded_for_is_believed_from_trusted_proxies_only(make_settings: Callable[..., Settings]) -> None:
    wrong = {"Authorization": "Basic bm86bm8="}

    def statuses(service: Service, header: str) -> list[int]:
        return [service.client.post({}, {**wrong, "X-Forwarded-For": header.format(n)}).status for n in range(12)]

    with serve(make_settings(TRUSTED_PROXIES="127.0.0.0/8")) as behind:
        assert statuses(behind, "203.0.113.{}") == [401] * 12
        # A client behind the proxy cannot invent an address: the last one is the proxy's own word.
        assert statuses(behind, "198.51.100.{}, 203.0.113.200")[-1] == 429
    with serve(make_settings()) as open_to_all:
        assert statuses(open_to_all, "203.0.113.{}")[-1] == 429
