"""TCP proxies on loopback that simulate network failures, one in front of each server.

All proxies of a ``ProxyLoop`` run on one event loop in its own thread; they can be controlled from any thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Coroutine
from dataclasses import dataclass
from enum import StrEnum
from types import TracebackType
from typing import Any, Self, TypeVar

from devstack.processes.process import free_port

T = TypeVar("T")

_HOST = "127.0.0.1"
_CHUNK = 64 * 1024
#: Maximum number of chunks in transit in one direction: the buffer of a slow link before the sender has to wait.
_MAX_IN_TRANSIT = 64
_TIMEOUT = 10.0
#: Value of the option SO_LINGER with which closing sends RST and discards unsent data.
_NO_LINGER = struct.pack("ii", 1, 0)


class Mode(StrEnum):
    """The behaviour of a proxy."""

    PASS = "pass"
    """All data pass."""
    DROP = "drop"
    """No listener, and existing connections are closed: like a running host without its server."""
    BLACK_HOLE = "black_hole"
    """Connections stay open, and all data are delayed until the mode ends: like an unplugged cable."""
    DELAY = "delay"
    """All data are delayed, in each direction."""
    RESET = "reset"
    """Existing and new connections are reset: like a restarted firewall."""


class ProxyLoop:
    """The event loop of the proxies. All connections are closed when the block ends."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="switchboard", daemon=True)
        self._proxies: list[Proxy] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for proxy in self._proxies:
            self.run(proxy._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_TIMEOUT)
        self._loop.close()

    def proxy(self, target_port: int, port: int | None = None) -> Proxy:
        """Create a proxy to ``target_port``; it listens on ``port``, or on a free port."""
        proxy = Proxy(self, target_port, port or free_port())
        self.run(proxy._listen())
        self._proxies.append(proxy)
        return proxy

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run ``work`` on the event loop and return its result."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_TIMEOUT)


@dataclass(eq=False, slots=True)
class _Endpoint:
    """One end of a connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def cut(self, *, reset: bool) -> None:
        """Close the connection immediately and discard unsent data."""
        if reset:
            found = self.writer.get_extra_info("socket")
            with contextlib.suppress(OSError):  # closed already
                found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        self.writer.transport.abort()


class Proxy:
    """A proxy, created by ``ProxyLoop.proxy``. Its port is the same in all modes."""

    def __init__(self, loop: ProxyLoop, target_port: int, port: int) -> None:
        self.port = port
        self._proxy_loop = loop
        self._target_port = target_port
        self._mode = Mode.PASS
        self._delay = 0.0
        self._server: asyncio.Server | None = None
        self._passing = asyncio.Event()
        self._passing.set()
        self._endpoints: set[_Endpoint] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"http://{_HOST}:{self.port}"

    @property
    def mode(self) -> Mode:
        return self._mode

    def set(self, mode: Mode, *, delay: float = 0.0) -> None:
        """Set the mode; return when it is active. ``delay``: s in each direction, for ``Mode.DELAY``."""
        self._proxy_loop.run(self._set(mode, delay))

    async def _set(self, mode: Mode, delay: float) -> None:
        self._mode = mode
        self._delay = delay if mode is Mode.DELAY else 0.0
        if mode is Mode.BLACK_HOLE:
            self._passing.clear()
        else:
            self._passing.set()
        if mode is Mode.DROP:
            self._stop_listening()
        else:
            await self._listen()
        if mode in (Mode.DROP, Mode.RESET):
            self._cut_all(reset=mode is Mode.RESET)

    async def _listen(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(self._accept, _HOST, self.port, backlog=128)

    def _stop_listening(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    def _cut_all(self, *, reset: bool) -> None:
        for endpoint in tuple(self._endpoints):
            endpoint.cut(reset=reset)

    async def _close(self) -> None:
        self._stop_listening()
        self._cut_all(reset=True)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        client = _Endpoint(reader, writer)
        with contextlib.suppress(
            OSError, asyncio.CancelledError
        ):  # either side has disconnected, or this proxy is closed
            await self._serve(client)

    async def _serve(self, client: _Endpoint) -> None:
        self._endpoints.add(client)
        server: _Endpoint | None = None
        clean = False
        try:
            if self._mode is Mode.RESET:
                return
            await self._passing.wait()
            server = _Endpoint(*await asyncio.open_connection(_HOST, self._target_port))
            self._endpoints.add(server)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._forward(client.reader, server.writer))
                group.create_task(self._forward(server.reader, client.writer))
            clean = True
        except* OSError:
            pass  # one side has disconnected; the other is closed below
        finally:
            for endpoint in filter(None, (client, server)):
                await _close_endpoint(endpoint, clean=clean)
                self._endpoints.discard(endpoint)

    async def _forward(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        """Forward all data from ``source`` in order, each chunk after the delay that is set when it arrives."""
        in_transit: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_MAX_IN_TRANSIT)
        clock = asyncio.get_running_loop().time
        async with asyncio.TaskGroup() as group:
            group.create_task(self._deliver(in_transit, sink))
            while chunk := await source.read(_CHUNK):
                await in_transit.put((clock() + self._delay, chunk))
            await in_transit.put((clock() + self._delay, b""))

    async def _deliver(self, in_transit: asyncio.Queue[tuple[float, bytes]], sink: asyncio.StreamWriter) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            due, chunk = await in_transit.get()
            await asyncio.sleep(max(0.0, due - clock()))
            await self._passing.wait()
            if not chunk:
                sink.write_eof()
                return
            sink.write(chunk)
            await sink.drain()


async def _close_endpoint(endpoint: _Endpoint, *, clean: bool) -> None:
    if not clean:
        endpoint.cut(reset=True)
    endpoint.writer.close()
    with contextlib.suppress(OSError):
        await endpoint.writer.wait_closed()
