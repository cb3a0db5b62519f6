"""Accepts the connections of one socket, as far as the limits allow."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from http import HTTPStatus

from api.server.connections import Connections
from api.server.protocol import raw_error
from pipeline.service.log_limit import LogLimit
from pipeline.service.logs import get_logger

log = get_logger(__name__)

#: Connections that the kernel keeps until they are accepted.
BACKLOG = 2048
#: Pause after a failed ``accept``, s. Most failures are a lack of descriptors, which closed connections release.
_PAUSE = 0.1
#: ``Retry-After`` of a connection that is refused, s.
_RETRY_AFTER = 5

_failed, _refused = LogLimit(), LogLimit()


class LimitedListener:
    """Accepts connections on a listening socket; it has the methods of asyncio's server that uvicorn calls.

    It accepts one connection in each turn of the event loop, so that each counts before the next is accepted, and the
    requests of accepted ones are served in between.
    """

    def __init__(
        self, listening: socket.socket, protocol: Callable[[], asyncio.Protocol], connections: Connections
    ) -> None:
        self._listening = listening
        self._protocol = protocol
        self._connections = connections
        self._loop = asyncio.get_running_loop()
        self._opening: set[asyncio.Task[object]] = set()
        self._is_open = True
        listening.setblocking(False)
        listening.listen(BACKLOG)
        self._loop.add_reader(listening, self._accept)

    @property
    def sockets(self) -> tuple[socket.socket, ...]:
        """The socket, unless it is closed."""
        return (self._listening,) if self._is_open else ()

    def close(self) -> None:
        """Accept no more connections. Those that are open continue."""
        self._is_open = False
        self._loop.remove_reader(self._listening)
        self._listening.close()

    async def wait_closed(self) -> None:
        """Return at once: the caller waits for the connections."""

    def _accept(self) -> None:
        try:
            connection, address = self._listening.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return  # The client is gone already.
        except OSError as error:
            _failed.write(log.warning, "accept_failed", error=error.strerror, connections=len(self._connections))
            self._connections.evict(self._loop.time())
            self._pause(_PAUSE)
            return
        connection.setblocking(False)
        self._admit(connection, str(address[0]))

    def _admit(self, connection: socket.socket, peer: str) -> None:
        delay = self._connections.make_room(peer, self._loop.time())
        if delay is None:
            _refused.write(log.warning, "connection_refused", peer=peer, connections=len(self._connections))
            _refuse(connection)
        elif delay:
            self._pause(delay)  # No other is accepted meanwhile: only this one waits.
            self._loop.call_later(delay, self._admit, connection, peer)
        else:
            opening = self._loop.create_task(self._loop.connect_accepted_socket(self._protocol, connection))
            self._opening.add(opening)
            opening.add_done_callback(self._opening.discard)

    def _pause(self, seconds: float) -> None:
        self._loop.remove_reader(self._listening)
        self._loop.call_later(seconds, self._resume)

    def _resume(self) -> None:
        if self._is_open:
            self._loop.add_reader(self._listening, self._accept)


def _refuse(connection: socket.socket) -> None:
    """Answer 503 and close. A client that does not take it at once gets nothing."""
    answer = raw_error(
        HTTPStatus.SERVICE_UNAVAILABLE, "Too many connections: try again later", Retry_After=str(_RETRY_AFTER)
    )
    with connection:
        try:
            connection.send(answer)
        except OSError:
            return
