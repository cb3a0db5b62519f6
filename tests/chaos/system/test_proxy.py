"""Tests of the proxy's modes, from both ends of real connections."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.chaos.system.proxy import Mode, Proxy, ProxyLoop

TIMEOUT = 10.0
#: Time without data after which a connection counts as silent, s.
SILENCE = 0.2


class Echo:
    """An echo server that records how each of its connections ended."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._threads: list[threading.Thread] = []
        self._changed = threading.Condition()
        self.begun = 0
        self.endings: list[str] = []

    def __enter__(self) -> Echo:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(TIMEOUT)
            assert not thread.is_alive()

    def wait_for_ending(self) -> str:
        with self._changed:
            assert self._changed.wait_for(lambda: self.endings, TIMEOUT)
            return self.endings[0]

    def _start(self, work: object, *args: object) -> None:
        thread = threading.Thread(target=work, args=args)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.begun += 1
            self._start(self._echo, connection)

    def _echo(self, connection: socket.socket) -> None:
        ending = "closed"
        with connection:
            try:
                while data := connection.recv(65536):
                    connection.sendall(data)
            except ConnectionError:
                ending = "reset"
        with self._changed:
            self.endings.append(ending)
            self._changed.notify_all()


@pytest.fixture
def echo() -> Iterator[Echo]:
    with Echo() as server:
        yield server


@pytest.fixture
def proxy(echo: Echo) -> Iterator[Proxy]:
    with ProxyLoop() as proxy_loop:
        yield proxy_loop.proxy(echo.port)


@pytest.fixture
def client(proxy: Proxy) -> Iterator[socket.socket]:
    with closing(connect(proxy)) as connection:
        yield connection


def connect(proxy: Proxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=TIMEOUT)


def echo_of(client: socket.socket, data: bytes) -> bytes:
    """Send ``data`` and return the response."""
    client.sendall(data)
    return received(client, len(data))


def received(client: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        chunk = client.recv(count - len(data))
        assert chunk, "the connection ended early"
        data += chunk
    return data


def is_silent(client: socket.socket) -> bool:
    client.settimeout(SILENCE)
    try:
        client.recv(1)
    except TimeoutError:
        return True
    finally:
        client.settimeout(TIMEOUT)
    return False


def test_data_pass_in_both_directions_and_in_order(client: socket.socket) -> None:
    song = bytes(range(256)) * 4000
    sender = threading.Thread(target=client.sendall, args=(song,))
    sender.start()
    assert received(client, len(song)) == song
    sender.join()


def test_end_of_stream_passes(client: socket.socket, echo: Echo) -> None:
    assert echo_of(client, b"last words") == b"last words"
    client.shutdown(socket.SHUT_WR)
    assert client.recv(1) == b""
    assert echo.wait_for_ending() == "closed"


def test_unreachable_server_resets_the_connection() -> None:
    with ProxyLoop() as proxy_loop, socket.create_server(("127.0.0.1", 0)) as gone:
        proxy = proxy_loop.proxy(gone.getsockname()[1])
        gone.close()
        with pytest.raises(ConnectionResetError), connect(proxy) as client:
            client.recv(1)


def test_drop_closes_connections_and_refuses_new_ones(proxy: Proxy, client: socket.socket, echo: Echo) -> None:
    echo_of(client, b"begun")
    proxy.set(Mode.DROP)
    assert client.recv(1) == b""
    assert echo.wait_for_ending()
    with pytest.raises(ConnectionRefusedError):
        connect(proxy)
    proxy.set(Mode.PASS)
    with connect(proxy) as again:
        assert echo_of(again, b"back") == b"back"


def test_reset_resets_connections_at_both_ends(proxy: Proxy, client: socket.socket, echo: Echo) -> None:
    echo_of(client, b"begun")
    proxy.set(Mode.RESET)
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    assert echo.wait_for_ending() == "reset"
    with pytest.raises(ConnectionResetError), connect(proxy) as late:
        late.recv(1)
    assert echo.begun == 1


def test_black_hole_loses_no_data(proxy: Proxy, client: socket.socket, echo: Echo) -> None:
    """Data sent meanwhile arrive when the mode ends, as after a cable is plugged in again."""
    echo_of(client, b"begun")
    proxy.set(Mode.BLACK_HOLE)
    client.sendall(b"meanwhile")
    with connect(proxy) as newcomer:
        newcomer.sendall(b"hello?")
        assert is_silent(client)
        assert is_silent(newcomer)
        assert echo.begun == 1
        proxy.set(Mode.PASS)
        assert received(client, 9) == b"meanwhile"
        assert received(newcomer, 6) == b"hello?"


def test_black_hole_can_end_in_a_reset(proxy: Proxy, client: socket.socket) -> None:
    echo_of(client, b"begun")
    proxy.set(Mode.BLACK_HOLE)
    client.sendall(b"never to arrive")
    proxy.set(Mode.RESET)
    with pytest.raises(ConnectionResetError):
        client.recv(1)


def test_delay_applies_to_each_direction_and_not_to_each_chunk(proxy: Proxy, client: socket.socket) -> None:
    proxy.set(Mode.DELAY, delay=0.15)
    began = time.monotonic()
    assert echo_of(client, b"there and back") == b"there and back"
    assert time.monotonic() - began >= 0.3
    for _ in range(40):
        client.sendall(bytes(50_000))
    received(client, 40 * 50_000)
    assert time.monotonic() - began < 40 * 0.15
    proxy.set(Mode.PASS)
    assert echo_of(client, b"at once") == b"at once"


def test_open_connections_are_closed_at_the_end(echo: Echo) -> None:
    with ProxyLoop() as proxy_loop:
        proxy = proxy_loop.proxy(echo.port)
        client = connect(proxy)
        echo_of(client, b"begun")
    with closing(client), pytest.raises(ConnectionResetError):
        client.recv(1)
    assert echo.wait_for_ending() == "reset"
