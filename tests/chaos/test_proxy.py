"""Each mode of the proxy, seen from both ends of real connections."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.chaos.proxy import Mode, Proxy, Switchboard

PATIENCE = 10.0
#: How long nothing has to come for it to count as silence, s.
SILENCE = 0.2


class Echo:
    """A server that sends back what it gets, and knows how each of its connections has ended."""

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
            thread.join(PATIENCE)
            assert not thread.is_alive()

    def wait_for_ending(self) -> str:
        with self._changed:
            assert self._changed.wait_for(lambda: self.endings, PATIENCE)
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
    with Switchboard() as switchboard:
        yield switchboard.proxy(echo.port)


@pytest.fixture
def client(proxy: Proxy) -> Iterator[socket.socket]:
    with closing(connect(proxy)) as connection:
        yield connection


def connect(proxy: Proxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=PATIENCE)


def says(client: socket.socket, data: bytes) -> bytes:
    """What comes back."""
    client.sendall(data)
    return received(client, len(data))


def received(client: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = client.recv(count - len(data))
        assert piece, "the connection has ended early"
        data += piece
    return data


def silent(client: socket.socket) -> bool:
    client.settimeout(SILENCE)
    try:
        client.recv(1)
    except TimeoutError:
        return True
    finally:
        client.settimeout(PATIENCE)
    return False


def test_bytes_pass_in_both_directions_and_in_order(client: socket.socket) -> None:
    song = bytes(range(256)) * 4000
    sender = threading.Thread(target=client.sendall, args=(song,))
    sender.start()
    assert received(client, len(song)) == song
    sender.join()


def test_the_end_passes_too(client: socket.socket, echo: Echo) -> None:
    assert says(client, b"last words") == b"last words"
    client.shutdown(socket.SHUT_WR)
    assert client.recv(1) == b""
    assert echo.wait_for_ending() == "closed"


def test_a_server_that_is_away_is_a_connection_that_ends() -> None:
    with Switchboard() as switchboard, socket.create_server(("127.0.0.1", 0)) as gone:
        proxy = switchboard.proxy(gone.getsockname()[1])
        gone.close()
        with pytest.raises(ConnectionResetError), connect(proxy) as client:
            client.recv(1)


def test_dropped_connections_end_and_new_ones_are_refused(proxy: Proxy, client: socket.socket, echo: Echo) -> None:
    says(client, b"begun")
    proxy.set(Mode.DROP)
    assert client.recv(1) == b""
    assert echo.wait_for_ending()
    with pytest.raises(ConnectionRefusedError):
        connect(proxy)
    proxy.set(Mode.PASS)
    with connect(proxy) as again:
        assert says(again, b"back") == b"back"


def test_reset_connections_are_reset_at_both_ends(proxy: Proxy, client: socket.socket, echo: Echo) -> None:
    says(client, b"begun")
    proxy.set(Mode.RESET)
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    assert echo.wait_for_ending() == "reset"
    with pytest.raises(ConnectionResetError), connect(proxy) as late:
        late.recv(1)
    assert echo.begun == 1


def test_a_black_hole_swallows_nothing(proxy: Proxy, client: socket.socket, echo: Echo) -> None:
    """What was sent meanwhile arrives when it is over, as from the buffers of a cable that is plugged in again."""
    says(client, b"begun")
    proxy.set(Mode.BLACK_HOLE)
    client.sendall(b"meanwhile")
    with connect(proxy) as newcomer:
        newcomer.sendall(b"hello?")
        assert silent(client)
        assert silent(newcomer)
        assert echo.begun == 1
        proxy.set(Mode.PASS)
        assert received(client, 9) == b"meanwhile"
        assert received(newcomer, 6) == b"hello?"


def test_a_black_hole_can_end_in_a_reset(proxy: Proxy, client: socket.socket) -> None:
    says(client, b"begun")
    proxy.set(Mode.BLACK_HOLE)
    client.sendall(b"never to arrive")
    proxy.set(Mode.RESET)
    with pytest.raises(ConnectionResetError):
        client.recv(1)


def test_a_delay_holds_for_each_way_and_not_for_each_chunk(proxy: Proxy, client: socket.socket) -> None:
    proxy.set(Mode.DELAY, delay=0.15)
    began = time.monotonic()
    assert says(client, b"there and back") == b"there and back"
    assert time.monotonic() - began >= 0.3
    for _ in range(40):
        client.sendall(bytes(50_000))
    received(client, 40 * 50_000)
    assert time.monotonic() - began < 40 * 0.15
    proxy.set(Mode.PASS)
    assert says(client, b"at once") == b"at once"


def test_what_is_open_is_closed_at_the_end(echo: Echo) -> None:
    with Switchboard() as switchboard:
        proxy = switchboard.proxy(echo.port)
        client = connect(proxy)
        says(client, b"begun")
    with closing(client), pytest.raises(ConnectionResetError):
        client.recv(1)
    assert echo.wait_for_ending() == "reset"
