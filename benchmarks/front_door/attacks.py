"""Clients that occupy the API. Each keeps its connections open, and opens a new one for each that is closed."""

from __future__ import annotations

import asyncio
import resource
import socket
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass

#: Pause between two attempts to connect, s.
_PAUSE = 0.05
#: A slow reader takes as many bytes at once, and waits as long (s) before the next.
_SIP, _SIP_INTERVAL = 1024, 1.0


@dataclass(frozen=True)
class Target:
    """The API under attack: its port on loopback, its credentials as a header, and the path of a large stem."""

    port: int
    authorization: str
    stem: str


Behaviour = Callable[[Target], Coroutine[None, None, None]]


@dataclass(frozen=True)
class Attack:
    """``clients`` coroutines that repeat ``behave``; the API's process may have ``descriptors`` open files."""

    name: str
    label: str
    clients: int
    behave: Behaviour | None
    descriptors: int | None = None


async def _silent(target: Target) -> None:
    await _hold(target, b"")


async def _half_header(target: Target) -> None:
    await _hold(target, b"GET /health HTTP/1.1\r\nHost: api\r\nX-Half:")


async def _half_body(target: Target) -> None:
    head = f"POST /generate HTTP/1.1\r\nHost: api\r\nAuthorization: {target.authorization}\r\n"
    await _hold(target, f'{head}Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n{{"audio"'.encode())


async def _keep_alive(target: Target) -> None:
    await _hold(target, b"GET /health HTTP/1.1\r\nHost: api\r\n\r\n")


async def _garbage(target: Target) -> None:
    await _hold(target, b"\x16\x03\x01 this is not HTTP\r\n\r\n")


async def _guess(target: Target) -> None:
    await _hold(
        target, b"POST /generate HTTP/1.1\r\nHost: api\r\nAuthorization: Basic b3BlcmF0b3I6Z3Vlc3M=\r\n\r\n" * 20
    )


async def _read_slowly(target: Target) -> None:
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.setblocking(False)
    loop = asyncio.get_running_loop()
    with connection:
        await loop.sock_connect(connection, ("127.0.0.1", target.port))
        await loop.sock_sendall(connection, f"GET {target.stem} HTTP/1.1\r\nHost: api\r\n\r\n".encode())
        while await loop.sock_recv(connection, _SIP):
            await asyncio.sleep(_SIP_INTERVAL)


async def _hold(target: Target, request: bytes) -> None:
    """Send ``request`` and keep the connection until the server closes it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", target.port)
    try:
        writer.write(request)
        while await reader.read(65536):
            continue
    finally:
        writer.close()


ATTACKS = (
    Attack("none", "no other clients", 0, None),
    Attack("silent", "300 silent connections, `ulimit -n 256`", 300, _silent, 256),
    Attack("header", "300 half headers, `ulimit -n 256`", 300, _half_header, 256),
    Attack("body", "300 half bodies, `ulimit -n 256`", 300, _half_body, 256),
    Attack("keep-alive", "2,000 keep-alive connections", 2000, _keep_alive),
    Attack("keep-alive-few", "2,000 keep-alive connections, `ulimit -n 256`", 2000, _keep_alive, 256),
    Attack("reader", "a slow reader of a stem (1 kB/s)", 1, _read_slowly),
    Attack("readers", "300 slow readers of a stem, `ulimit -n 256`", 300, _read_slowly, 256),
    Attack("garbage", "100 clients that send what is not HTTP", 100, _garbage),
    Attack("guesses", "20 clients that guess passwords", 20, _guess),
)


def attack(of: Attack, target: Target) -> None:
    """Run the clients of an attack until the process is killed."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    asyncio.run(_run(of, target))


async def _run(of: Attack, target: Target) -> None:
    async def repeat() -> None:
        while of.behave is not None:
            with suppress(OSError):
                await of.behave(target)
            await asyncio.sleep(_PAUSE)

    await asyncio.gather(*(repeat() for _ in range(of.clients)))
