"""A uvicorn server on the limited listeners of this package, stopped like every other service."""

from __future__ import annotations

import asyncio
import math
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import uvicorn
from starlette.types import ASGIApp

from api.server.connections import ConnectionLimits, Connections
from api.server.listener import LimitedListener
from api.server.protocol import LimitedConnection
from pipeline.errors import ErrorCode, InfrastructureError
from pipeline.service.logs import get_logger
from pipeline.service.shutdown import StopSignal

log = get_logger(__name__)

#: Interval at which overdue connections are closed, s.
_CHECK_INTERVAL = 0.5


@dataclass(frozen=True)
class Endpoint:
    """An application, the sockets that it is served on, and the limits of their connections."""

    app: ASGIApp
    sockets: Sequence[socket.socket]
    limits: ConnectionLimits


class ApiServer(uvicorn.Server):
    """Serves ``endpoints`` until ``stop`` is set. Requests in progress then have ``grace`` s to end."""

    def __init__(self, endpoints: Sequence[Endpoint], stop: StopSignal, grace: float) -> None:
        self._configs = [_config(endpoint.app, grace) for endpoint in endpoints]
        super().__init__(self._configs[0])
        self._endpoints = endpoints
        self._connections = [Connections(endpoint.limits) for endpoint in endpoints]
        self._stop = stop
        self._overdue: asyncio.Task[None] | None = None

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup([])  # It runs the application's own start, and listens nowhere.
        listeners = [
            self._listener(listening, config, connections)
            for endpoint, config, connections in zip(self._endpoints, self._configs, self._connections, strict=True)
            for listening in endpoint.sockets
        ]
        self.servers = cast("list[Any]", listeners)
        self._overdue = asyncio.create_task(self._close_overdue())
        for listening in (listening for endpoint in self._endpoints for listening in endpoint.sockets):
            host, port, *_ = listening.getsockname()
            log.info("listening", host=host, port=port)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        if self._overdue is not None:
            self._overdue.cancel()

    async def on_tick(self, counter: int) -> bool:
        self.should_exit = self.should_exit or self._stop.is_set()
        return await super().on_tick(counter)

    def _listener(self, listening: socket.socket, config: uvicorn.Config, connections: Connections) -> LimitedListener:
        if not config.loaded:
            config.load()
        return LimitedListener(
            listening,
            lambda: LimitedConnection(config, self.server_state, self.lifespan.state, connections),
            connections,
        )

    async def _close_overdue(self) -> None:
        while True:
            await asyncio.sleep(_CHECK_INTERVAL)
            for connections in self._connections:
                connections.close_overdue(asyncio.get_running_loop().time())


def _config(app: ASGIApp, grace: float) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=LimitedConnection,
        ws="none",
        log_config=None,  # Logging is configured already.
        log_level="error",  # Its warnings are about requests that are not HTTP, one line each.
        access_log=False,
        server_header=False,
        proxy_headers=False,  # The application does this for the proxies that the settings trust.
        timeout_graceful_shutdown=math.ceil(grace),
    )


def bind(host: str, port: int, setting: str) -> list[socket.socket]:
    """Return a bound socket for each address of ``host``; port 0 picks a free one.

    Raises InfrastructureError if one cannot be bound; ``setting`` begins the names of the two variables.
    """
    bound: list[socket.socket] = []
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, address in dict.fromkeys((family, address) for family, _, _, _, address in found):
            bound.append(socket.create_server(cast("Any", address), family=family))
    except OSError as error:
        for opened in bound:
            opened.close()
        raise InfrastructureError(
            f"{setting}_HOST={host}, {setting}_PORT={port} cannot be bound ({error.strerror}): "
            "set another address or port",
            code=ErrorCode.INTERNAL,
        ) from None
    return bound
