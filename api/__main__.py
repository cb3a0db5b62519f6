"""``python -m api``: the front door as a process. Its exit status is an ``ExitCode``."""

from __future__ import annotations

import math
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI

from api.app import create_app
from api.urls import PATIENCE
from config import ConfigError, Settings, load
from pipeline.download.guard import UrlGuard
from pipeline.errors import InfrastructureError
from pipeline.lifecycle import ExitCode, StopSignal
from pipeline.retry import RetryPolicy
from pipeline.storage.factory import open_store
from pipeline.telemetry import configure_logging, get_logger
from pipeline.transport.factory import open_transport, topics
from pipeline.worker import ensure_topics

log = get_logger("api")

#: The API consumes nothing; the setting is there for the services that do.
_NO_CONSUMER_MS = 300_000


class Server(uvicorn.Server):
    """A uvicorn server that is stopped by a ``StopSignal``, as every service here."""

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
    """Run until a signal comes."""
    try:
        settings = load()
        settings.api.require_credentials()
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return ExitCode.CONFIG
    configure_logging("api", settings.log)
    stop = StopSignal(settings.worker.shutdown_grace)
    stop.install()
    try:
        return _serve(settings, stop)
    except InfrastructureError as error:
        log.error("cannot_start", code=error.code, error=error.message)
        return ExitCode.UNAVAILABLE


def _serve(settings: Settings, stop: StopSignal) -> ExitCode:
    transport = open_transport(
        settings, max_poll_interval_ms=_NO_CONSUMER_MS, publish_timeout=settings.api.accept_timeout
    )
    try:
        guard = UrlGuard(settings.download.allow_private_networks, resolve_timeout=PATIENCE)
        app = create_app(settings, transport, open_store(settings), guard)
        # Beside the server: the API is up before its broker is, and says so on /ready.
        wanted = topics(settings.kafka, settings.state.retention_seconds)
        backoff = RetryPolicy().infrastructure
        threading.Thread(target=ensure_topics, args=(transport, wanted, backoff, stop), daemon=True).start()
        return _run(app, settings, stop)
    finally:
        transport.close()


def _run(app: FastAPI, settings: Settings, stop: StopSignal) -> ExitCode:
    server = Server(
        uvicorn.Config(
            app,
            host=settings.api.host,
            port=settings.api.port,
            log_config=None,  # the log is set up already
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
        # The server has logged why it could not listen, and would leave with a status of its own.
        return ExitCode.UNAVAILABLE
    log.info("stopped")
    return ExitCode.OK


if __name__ == "__main__":
    sys.exit(main())
