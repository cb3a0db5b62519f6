"""The network layer of kafka-python's clients (3.0.12), with additions.

kafka-python does not report why a connection failed: a refused client reconnects without a pause until a timeout that
carries no cause. This module records the causes, so that they can be reported.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import Any, TypeVar

from kafka.errors import KafkaConnectionError, KafkaProtocolError, KafkaTimeoutError
from kafka.net.compat import KafkaNetClient
from kafka.net.connection import KafkaConnection
from kafka.net.manager import KafkaConnectionManager
from kafka.net.selector import NetworkSelector
from kafka.net.transport import KafkaTCPTransport

from pipeline.transport.kafka.errors import BrokerDisconnectedError
from pipeline.transport.kafka.refusal import BrokerRefusedError, describe_login, refusal_from

#: kafka-python's message for a connection that the other side has closed.
_DISCONNECTED = "socket disconnected"

ClientT = TypeVar("ClientT")


def create_client(client_class: Callable[..., ClientT], **settings: Any) -> ClientT:
    """Create a client of kafka-python, and release its resources if the constructor fails.

    A constructor of kafka-python that finds no broker leaks its thread and four file descriptors: a service that waits
    an hour for its broker would run out of them. Raises kafka-python's exceptions, BrokerRefusedError and
    BrokerDisconnectedError.
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
        connections = list(self._manager._conns.values()) if node_id is None else []
        sockets = [connection.transport._sock for connection in connections if connection.transport is not None]
        super().close(node_id)
        for open_socket in sockets:
            if open_socket is not None:
                open_socket.close()


class _ConnectionManager(KafkaConnectionManager):  # type: ignore[misc]
    """Records the causes of failed connections."""

    def __init__(self, net: NetworkSelector, /, **settings: Any) -> None:
        super().__init__(net, **settings)
        #: The refusals of brokers that have not accepted this client since, by node, the newest last.
        self.refusals: dict[object, BrokerRefusedError] = {}
        #: True if a broker accepted a connection, then closed it or replied with invalid data.
        self.disconnected = False

    async def _connect(self, node: Any, conn: KafkaConnection, **options: Any) -> None:
        await super()._connect(node, conn, **options)
        error = conn.init_future.exception
        if error is None:
            self.refusals.pop(node.node_id, None)
            # A broker that requires a login accepts a connection without one, and closes it on the first request.
            conn.close_future.add_errback(self._on_disconnect)
            return
        self._on_disconnect(error)
        if self.connection_delay(node.node_id) == 0:
            # kafka-python would reconnect to a broker that refuses without a pause.
            self.update_backoff(node.node_id)
        refusal = refusal_from(error, f"the broker {node.host}:{node.port}", describe_login(self.config))
        if refusal is not None:
            self.refusals[node.node_id] = refusal

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

    def _on_disconnect(self, error: Exception) -> None:
        if isinstance(error, KafkaConnectionError):
            causes = (error.__context__, *error.args)
            reset = (ssl.SSLEOFError, ConnectionResetError)
            disconnected = any(isinstance(cause, reset) or cause == _DISCONNECTED for cause in causes)
        else:
            disconnected = isinstance(error, KafkaProtocolError)
        self.disconnected = self.disconnected or disconnected
