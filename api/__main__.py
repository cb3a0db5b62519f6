"""``python -m api``: the HTTP API as a process. Its exit status is an ``ExitCode``."""

from __future__ import annotations

import math
import socket
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI

from api.app import create_app
from api.url_check import RESOLVE_TIMEOUT
from config import Settings
from pipeline.consuming.retry import RetryPolicy
from pipeline.consuming.worker_process import ensure_topics
from pipeline.download.ssrf.url_guard import UrlGuard
from pipeline.errors import ErrorCode, InfrastructureError
from pipeline.service.logs import get_logger
from pipeline.service.run import run_service
from pipeline.service.shutdown import ExitCode, StopSignal
from pipeline.storage.factory import open_store
from pipeline.topics import Topics
from pipeline.transport import Transport
from pipeline.transport.factory import open_transport

log = get_logger("api")

#: Required by Kafka's clients. The API consumes nothing.
_NO_CONSUMER_MS = 300_000


class ApiServer(uvicorn.Server):
    """A uvicorn server that a ``StopSignal`` stops, like every other service."""

    def __init__(self, config: uvicorn.Config, stop: StopSignal) -> None:
        super().__init__(config)
        self._stop = stop

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in (listener for server in self.servers for listener in server.sockets):
            host, port, *_ = listener.getsockname()
            log.info("listening", host=host, port=port)

    async def on_tick(self, counter: int) -> bool:
        self.should_exit = self.should_exit or self._stop.is_set()
        return await super().on_tick(counter)


def main() -> ExitCode:
    """Run until a signal arrives or the broker refuses this service."""
    return run_service("api", _serve)


def _serve(settings: Settings, stop: StopSignal) -> None:
    settings.api.require_credentials()
    transport = open_transport(
        settings, max_poll_interval_ms=_NO_CONSUMER_MS, publish_timeout=settings.api.accept_timeout
    )
    try:
        guard = UrlGuard.from_settings(settings.download, resolve_timeout=RESOLVE_TIMEOUT)
        app = create_app(settings, transport, open_store(settings), guard)
        created = _create_topics(transport, Topics.from_settings(settings), stop)
        _run(app, settings, stop)
        if created.done():
            created.result()  # Raises the error that stopped the server, if any.
    finally:
        transport.close()


def _create_topics(transport: Transport, topics: Topics, stop: StopSignal) -> Future[bool]:
    """Create the topics in a thread, so that the server starts while the broker is down. A failure stops the server."""
    created: Future[bool] = Future()

    def create() -> None:
        try:
            created.set_result(ensure_topics(transport, topics.to_create(), RetryPolicy().infrastructure, stop))
        except BaseException as error:  # noqa: BLE001  re-raised by the thread that awaits the result
            created.set_exception(error)
            stop.request("the topics cannot be created")

    threading.Thread(target=create, name="topics", daemon=True).start()
    return created


def _run(app: FastAPI, settings: Settings, stop: StopSignal) -> None:
    server = ApiServer(
        uvicorn.Config(
            app,
            host=settings.api.host,
            port=settings.api.port,
            log_config=None,  # Logging is configured already.
            log_level="warning",
            access_log=False,
            server_header=False,
            ws="none",
            timeout_graceful_shutdown=math.ceil(settings.worker.shutdown_grace),
        ),
        stop,
    )
    try:
        server.run()
    except SystemExit:
        # uvicorn would exit with its own status.
        raise InfrastructureError(
            f"API_HOST={settings.api.host}, API_PORT={settings.api.port} cannot be bound: set another address or port",
            code=ErrorCode.INTERNAL,
        ) from None


if __name__ == "__main__":
    sys.exit(main())
