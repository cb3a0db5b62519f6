"""The network layer of kafka-python's clients (3.0.12), with additions.

kafka-python does not report why a connection failed: a refused client reconnects without a pause until a timeout that
carries no cause. This module records the causes, so that they can be reported.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable
from typing import Any, TypeVar

from kafka.errors import KafkaConnectionError, KafkaProtocolError, KafkaTimeoutError
from kafka.net.compat import KafkaNetClient
from kafka.net.connection import KafkaConnection
from kafka.net.manager import KafkaConnectionManager
from kafka.net.selector import NetworkSelector
from kafka.net.transport import KafkaTCPTransport

from pipeline.service.log_limit import ChangeLimit
from pipeline.service.logs import get_logger
from pipeline.transport.kafka.errors import BrokerDisconnectedError, BrokerUnreachableError
from pipeline.transport.kafka.refusal import BrokerRefusedError, describe_login, refusal_from

log = get_logger(__name__)

#: Age of an unfinished attempt to connect from which on it is reported when its client is closed, s.
_SILENT_AFTER = 1.0
#: kafka-python's message for a connection that the other side has closed.
_DISCONNECTED = "socket disconnected"

ClientT = TypeVar("ClientT")


def create_client(client_class: Callable[..., ClientT], **settings: Any) -> ClientT:
    """Create a client of kafka-python, and release its resources if the constructor fails.

    A constructor of kafka-python that finds no broker leaks its thread and four file descriptors: a service that waits
    an hour for its broker would run out of them. Raises kafka-python's exceptions, BrokerRefusedError,
    BrokerDisconnectedError and BrokerUnreachableError.
    """
    networks: list[NetworkClient] = []

    def create_network(**network_settings: Any) -> NetworkClient:
        networks.append(NetworkClient(**network_settings))
        return networks[-1]

    try:
        return client_class(**settings, kafka_client=create_network)
    except BaseException as error:
        for network in networks:
            network.close()
        if isinstance(error, KafkaTimeoutError) and any(network._manager.disconnected for network in networks):
            raise BrokerDisconnectedError(str(error)) from error
        reasons = [network._manager.unreachable for network in networks if network._manager.unreachable]
        if isinstance(error, KafkaTimeoutError) and reasons:
            raise BrokerUnreachableError(reasons[-1]) from error
        raise


class NetworkClient(KafkaNetClient):  # type: ignore[misc]
    """A network client that closes every socket when it is closed, and records refusals.

    kafka-python's own waits for pending writes instead, although its write loop has already ended.
    """

    def __init__(self, **settings: Any) -> None:
        net = NetworkSelector(**settings)
        super().__init__(net=net, manager=_ConnectionManager(net, **settings))

    def close(self, node_id: int | None = None) -> None:
        """Close the connection to one node; with None close the client and all of its sockets."""
        if node_id is None:
            self._manager.report_silent()
        connections = list(self._manager._conns.values()) if node_id is None else []
        sockets = [connection.transport._sock for connection in connections if connection.transport is not None]
        super().close(node_id)
        for open_socket in sockets:
            if open_socket is not None:
                open_socket.close()


class _UnreachableLog:
    """Logs which broker cannot be reached and why: once for all clients of the process. Thread-safe."""

    def __init__(self) -> None:
        self._limit = ChangeLimit()

    def failed(self, address: str, error: Exception, *, advertised: bool) -> None:
        """Log the reason, unless it was logged already. ``advertised``: the address is not from the settings."""
        reason = describe_failure(error)
        if not self._limit.is_news(address, reason):
            return
        check = "advertised.listeners of the broker, which names this address" if advertised else _BOOTSTRAP_SETTING
        log.warning("broker_unreachable", address=address, reason=reason, check=check)

    def succeeded(self, address: str) -> None:
        """Log that a broker that could not be reached responds."""
        if self._limit.forget(address):
            log.info("broker_reached", address=address)


_BOOTSTRAP_SETTING = "KAFKA_BOOTSTRAP_SERVERS"
_unreachable = _UnreachableLog()


def describe_failure(error: Exception) -> str:
    """Return the reason why a connection failed, in words."""
    causes = str(error)
    for words, reason in _REASONS:
        if words in causes:
            return reason
    return causes or type(error).__name__


#: Parts of the messages of kafka-python and the operating system, and the reasons that they stand for.
_REASONS = (
    ("DNS Resolution failure", "the host name is unknown (DNS)"),
    ("timed out", "timeout"),
    ("ECONNREFUSED", "connection refused"),
    ("Connection refused", "connection refused"),
    (
        _DISCONNECTED,
        "the connection was closed before an answer: is it a broker, and is KAFKA_SECURITY_PROTOCOL right?",
    ),
)


class _ConnectionManager(KafkaConnectionManager):  # type: ignore[misc]
    """Records the causes of failed connections."""

    def __init__(self, net: NetworkSelector, /, **settings: Any) -> None:
        super().__init__(net, **settings)
        #: The refusals of brokers that have not accepted this client since, by node, the newest last.
        self.refusals: dict[object, BrokerRefusedError] = {}
        #: True if a broker accepted a connection, then closed it or replied with invalid data.
        self.disconnected = False
        #: The last reason why a broker could not be reached, in words; empty if there is none.
        self.unreachable = ""
        #: The number of connections that were established and then lost.
        self.losses = 0
        #: The brokers to which a connection is being opened, with the start on the monotonic clock, s, by node.
        self._connecting: dict[object, tuple[Any, float]] = {}

    def report_silent(self) -> None:
        """Log the addresses that have not answered yet, although the client is closed for that reason."""
        now = time.monotonic()
        for node, since in list(self._connecting.values()):
            if now - since >= _SILENT_AFTER:
                self._report(node, KafkaTimeoutError("timed out"))

    def _report(self, node: Any, error: Exception) -> None:
        self.unreachable = describe_failure(error)
        _unreachable.failed(f"{node.host}:{node.port}", error, advertised=not self.cluster.is_bootstrap(node.node_id))

    async def _connect(self, node: Any, conn: KafkaConnection, **options: Any) -> None:
        self._connecting[node.node_id] = node, time.monotonic()
        try:
            await super()._connect(node, conn, **options)
        finally:
            self._connecting.pop(node.node_id, None)
        error = conn.init_future.exception
        if error is None:
            _unreachable.succeeded(f"{node.host}:{node.port}")
            self.refusals.pop(node.node_id, None)
            # A broker that requires a login accepts a connection without one, and closes it on the first request.
            conn.close_future.add_errback(self._on_disconnect)
            conn.close_future.add_errback(self._on_loss)
            return
        self._on_disconnect(error)
        if self.connection_delay(node.node_id) == 0:
            # kafka-python would reconnect to a broker that refuses without a pause.
            self.update_backoff(node.node_id)
        refusal = refusal_from(error, f"the broker {node.host}:{node.port}", describe_login(self.config))
        if refusal is not None:
            self.refusals[node.node_id] = refusal
        elif not self.closed:
            self._report(node, error)

    def maybe_raise_auth_failure(self, node_id: object) -> None:
        """Raise the recorded refusal of the node while the client is being created."""
        # Until the first connection succeeds, no caller can query ``refusal``, because the client is not created yet.
        if node_id in self.refusals and not self.bootstrapped:
            raise self.refusals[node_id]

    async def _build_transport(self, node: Any, timeout_at: float | None = None) -> KafkaTCPTransport:
        transport = await super()._build_transport(node, timeout_at=timeout_at)
        receive = transport._sock_recv

        def receive_all() -> tuple[bytes, Exception | None]:
            # Data that arrives together with the end of the connection carries the cause of the end, and kafka-python
            # would discard it. The next read reports the end again.
            data, error = receive()
            return data, None if data else error

        transport._sock_recv = receive_all
        return transport

    def _on_loss(self, _error: Exception) -> None:
        self.losses += 1

    def _on_disconnect(self, error: Exception) -> None:
        if isinstance(error, KafkaConnectionError):
            causes = (error.__context__, *error.args)
            reset = (ssl.SSLEOFError, ConnectionResetError)
            disconnected = any(isinstance(cause, reset) or cause == _DISCONNECTED for cause in causes)
        else:
            disconnected = isinstance(error, KafkaProtocolError)
        self.disconnected = self.disconnected or disconnected
