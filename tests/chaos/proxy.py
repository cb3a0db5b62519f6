"""A TCP proxy on loopback that can be made to fail as networks do, one in front of each thing that is talked to.

All proxies of a ``Switchboard`` run on one event loop in a thread of its own; they are told what to do from any thread.
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

from devstack.process import free_port

T = TypeVar("T")

_HOST = "127.0.0.1"
_CHUNK = 64 * 1024
#: Chunks of one direction that are on their way at a time: what a slow link holds before the sender has to wait.
_IN_FLIGHT = 64
_PATIENCE = 10.0
#: As the option SO_LINGER has it: closing sends RST, and nothing that was still to be sent.
_NO_LINGER = struct.pack("ii", 1, 0)


class Mode(StrEnum):
    """What a proxy does with connections."""

    PASS = "pass"
    """Everything goes through."""
    DROP = "drop"
    """Nobody listens, and the connections that there were have ended: as a host that is up with its server gone."""
    BLACK_HOLE = "black_hole"
    """Connections stand, and nothing gets through until this is over, then all of it: as a cable that was pulled."""
    DELAY = "delay"
    """Everything goes through later, each way."""
    RESET = "reset"
    """Connections are reset, those that there are and every new one: as a firewall that was started anew."""


class Switchboard:
    """The event loop of the proxies. Everything is closed when the block is left."""

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
        self._thread.join(_PATIENCE)
        self._loop.close()

    def proxy(self, target_port: int, port: int | None = None) -> Proxy:
        """A proxy that passes everything on to ``target_port``; it listens on ``port``, or on one of its choice."""
        proxy = Proxy(self, target_port, port or free_port())
        self.run(proxy._listen())
        self._proxies.append(proxy)
        return proxy

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of ``work``, done on the event loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_PATIENCE)


@dataclass(eq=False, slots=True)
class _Line:
    """One end of a connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def cut(self, *, reset: bool) -> None:
        """End it now, whatever was still to be sent."""
        if reset:
            found = self.writer.get_extra_info("socket")
            with contextlib.suppress(OSError):  # closed already
                found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        self.writer.transport.abort()


class Proxy:
    """Made by ``Switchboard.proxy``. Its port stays the same over all modes."""

    def __init__(self, switchboard: Switchboard, target_port: int, port: int) -> None:
        self.port = port
        self._switchboard = switchboard
        self._target_port = target_port
        self._mode = Mode.PASS
        self._delay = 0.0
        self._server: asyncio.Server | None = None
        self._passing = asyncio.Event()
        self._passing.set()
        self._lines: set[_Line] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"http://{_HOST}:{self.port}"

    @property
    def mode(self) -> Mode:
        return self._mode

    def set(self, mode: Mode, *, delay: float = 0.0) -> None:
        """Returns when it is so. ``delay``: s each way, with ``Mode.DELAY``."""
        self._switchboard.run(self._set(mode, delay))

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
        for line in tuple(self._lines):
            line.cut(reset=reset)

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
        client = _Line(reader, writer)
        with contextlib.suppress(OSError, asyncio.CancelledError):  # either side, or this proxy, is gone
            await self._serve(client)

    async def _serve(self, client: _Line) -> None:
        self._lines.add(client)
        server: _Line | None = None
        clean = False
        try:
            if self._mode is Mode.RESET:
                return
            await self._passing.wait()
            server = _Line(*await asyncio.open_connection(_HOST, self._target_port))
            self._lines.add(server)
            async with asyncio.TaskGroup() as both:
                both.create_task(self._carry(client.reader, server.writer))
                both.create_task(self._carry(server.reader, client.writer))
            clean = True
        except* OSError:
            pass  # one end is gone, and the other learns of it below
        finally:
            for line in filter(None, (client, server)):
                await _end(line, clean=clean)
                self._lines.discard(line)

    async def _carry(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        """Everything that comes from ``source``, in order, each chunk after the delay of the moment it came at."""
        on_the_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_IN_FLIGHT)
        clock = asyncio.get_running_loop().time
        async with asyncio.TaskGroup() as both:
            both.create_task(self._deliver(on_the_way, sink))
            while chunk := await source.read(_CHUNK):
                await on_the_way.put((clock() + self._delay, chunk))
            await on_the_way.put((clock() + self._delay, b""))

    async def _deliver(self, on_the_way: asyncio.Queue[tuple[float, bytes]], sink: asyncio.StreamWriter) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            due, chunk = await on_the_way.get()
            await asyncio.sleep(max(0.0, due - clock()))
            await self._passing.wait()
            if not chunk:
                sink.write_eof()
                return
            sink.write(chunk)
            await sink.drain()


async def _end(line: _Line, *, clean: bool) -> None:
    if not clean:
        line.cut(reset=True)
    line.writer.close()
    with contextlib.suppress(OSError):
        await line.writer.wait_closed()
