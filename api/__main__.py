"""``python -m api``: the HTTP API as a process. Its exit status is an ``ExitCode``."""

from __future__ import annotations

import sys
from dataclasses import replace

from fastapi import FastAPI

from api.app import create_app, create_operations_app
from api.server.addresses import TrustedProxies
from api.server.connections import ConnectionLimits, available_connections
from api.server.server import ApiServer, Endpoint, bind
from api.url_check import RESOLVE_TIMEOUT
from config import Settings
from pipeline.consuming.retry import RetryPolicy
from pipeline.download.ssrf.url_guard import UrlGuard
from pipeline.service.arguments import parse_service_arguments
from pipeline.service.run import run_service
from pipeline.service.shutdown import ExitCode, StopSignal
from pipeline.service.waiting import ComponentWait, component_addresses
from pipeline.storage.factory import open_store
from pipeline.topics import Topics
from pipeline.transport import Transport
from pipeline.transport.factory import open_transport

#: Required by Kafka's clients. The API consumes nothing.
_NO_CONSUMER_MS = 300_000

#: Largest number of open connections on the operators' port.
_OPERATIONS_CONNECTIONS = 32


def main() -> ExitCode:
    """Run until a signal arrives or the broker refuses this service."""
    return run_service("api", _serve)


def _serve(settings: Settings, stop: StopSignal) -> None:
    settings.api.require_credentials()
    settings.api.require_no_private_networks_on_a_public_address(settings.download.allow_private_networks)
    transport = open_transport(
        settings, max_poll_interval_ms=_NO_CONSUMER_MS, publish_timeout=settings.api.accept_timeout
    )
    try:
        guard = UrlGuard.from_settings(settings.download, resolve_timeout=RESOLVE_TIMEOUT)
        store = open_store(settings)
        app = create_app(settings, transport, store, guard)
        operations = create_operations_app(settings, app, transport, store)
        topics = Topics.from_settings(settings)
        checks = {"broker": lambda: _prepare_queue(transport, topics), "storage": store.check}
        # The server starts while the broker is down. An error that no wait resolves stops the server.
        with ComponentWait(checks, RetryPolicy().infrastructure, stop, component_addresses(settings)) as components:
            _run(app, operations, settings, stop)
            components.raise_if_failed()
    finally:
        transport.close()


def _prepare_queue(transport: Transport, topics: Topics) -> None:
    """Create the topics, and connect the producer: the first request should not have to wait for that.

    Raises InfrastructureError.
    """
    transport.ensure_topics(topics.used_by_api())
    transport.publish_probed(probe=topics.probe)


def _run(app: FastAPI, operations: FastAPI | None, settings: Settings, stop: StopSignal) -> None:
    api = settings.api
    total = available_connections(api.max_connections)
    limits = ConnectionLimits(
        total,
        per_address=min(api.max_connections_per_address, max(total // 2, 1)),
        request_timeout=api.request_timeout,
        write_timeout=api.write_timeout,
        exempt=TrustedProxies(api.trusted_proxies),
    )
    endpoints = [Endpoint(app, bind(api.host, api.port, "API"), limits)]
    if operations is not None and api.operations_port is not None:
        # Few connections, but of their own: this port answers while clients occupy all of theirs.
        limits = replace(limits, total=_OPERATIONS_CONNECTIONS, per_address=_OPERATIONS_CONNECTIONS)
        endpoints.append(Endpoint(operations, bind(api.operations_host, api.operations_port, "OPERATIONS"), limits))
    ApiServer(endpoints, stop, settings.worker.shutdown_grace).run()


if __name__ == "__main__":
    parse_service_arguments("api", "Run the HTTP API, which accepts jobs, until SIGTERM.")
    sys.exit(main())
