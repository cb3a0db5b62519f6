"""The network side of kafka-python's clients (3.0.12), with what it leaves undone.

It keeps to itself why a connection failed: whoever is turned away tries again without pause until a time-out that
says nothing. Here the reasons are kept, so that they can be told.
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

from pipeline.transport.kafka.errors import BrokerHungUp
from pipeline.transport.kafka.refusal import Attempt, RefusedByBroker

#: How kafka-python says that the other side has ended a connection.
_DISCONNECTED = "socket disconnected"

ClientT = TypeVar("ClientT")


def made(kind: Callable[..., ClientT], **settings: Any) -> ClientT:
    """A client of the kind, or nothing at all. Raises kafka-python's exceptions, RefusedByBroker, BrokerHungUp.

    A constructor of kafka-python that finds no broker leaves its thread and four file descriptors behind: a service
    that waits an hour for its broker would run out of them.
    """
    opened: list[KafkaNetwork] = []

    def open_network(**network_settings: Any) -> KafkaNetwork:
        opened.append(KafkaNetwork(**network_settings))
        return opened[-1]

    try:
        return kind(**settings, kafka_client=open_network)
    except BaseException as error:
        for network in opened:
            network.close()
        if isinstance(error, KafkaTimeoutError) and any(network.hung_up for network in opened):
            raise BrokerHungUp(str(error)) from error
        raise


class KafkaNetwork(KafkaNetClient):  # type: ignore[misc]
    """Lets go of every socket when it is closed, and knows who has turned it away.

    kafka-python waits for what is still to be written, and then nobody is left to write it.
    """

    def __init__(self, **settings: Any) -> None:
        net = NetworkSelector(**settings)
        super().__init__(net=net, manager=_Manager(net, **settings))

    @property
    def refusal(self) -> RefusedByBroker | None:
        """Why a broker has turned this client away, and has not let it in since."""
        refusals: list[RefusedByBroker] = list(self._manager.refusals.values())
        return refusals[-1] if refusals else None

    @property
    def hung_up(self) -> bool:
        """Whether a broker has ended a connection before it was of any use."""
        return bool(self._manager.hung_up)

    def close(self, node_id: int | None = None) -> None:
        connections = list(self._manager._conns.values()) if node_id is None else []
        sockets = [connection.transport._sock for connection in connections if connection.transport is not None]
        super().close(node_id)
        for left_open in sockets:
            if left_open is not None:
                left_open.close()


class _Manager(KafkaConnectionManager):  # type: ignore[misc]
    """Keeps the reasons why connections failed."""

    def __init__(self, net: NetworkSelector, /, **settings: Any) -> None:
        super().__init__(net, **settings)
        self.refusals: dict[object, RefusedByBroker] = {}
        self.hung_up = False

    async def _connect(self, node: Any, conn: KafkaConnection, **options: Any) -> None:
        await super()._connect(node, conn, **options)
        error = conn.init_future.exception
        if error is None:
            self.refusals.pop(node.node_id, None)
            # A broker that wants a login takes a connection without one, and ends it when anything is asked.
            conn.close_future.add_errback(self._on_lost)
            return
        self._on_lost(error)
        if self.connection_delay(node.node_id) == 0:
            # Where a broker answers and says no, kafka-python would come back without pause.
            self.update_backoff(node.node_id)
        refusal = self._attempt(node).refusal(error)
        if refusal is not None:
            self.refusals[node.node_id] = refusal

    def maybe_raise_auth_failure(self, node_id: object) -> None:
        # While there is no connection yet, nobody else is there to ask for the reason.
        if node_id in self.refusals and not self.bootstrapped:
            raise self.refusals[node_id]

    async def _build_transport(self, node: Any, timeout_at: float | None = None) -> KafkaTCPTransport:
        transport = await super()._build_transport(node, timeout_at=timeout_at)
        receive = transport._sock_recv

        def receive_whole() -> tuple[bytes, Exception | None]:
            # What comes together with the end of the connection tells the reason for it, and would be thrown away.
            # The end itself is seen again by the next read.
            data, error = receive()
            return data, None if data else error

        transport._sock_recv = receive_whole
        return transport

    def _on_lost(self, error: Exception) -> None:
        self.hung_up = self.hung_up or _is_hang_up(error)

    def _attempt(self, node: Any) -> Attempt:
        user, mechanism = self.config["sasl_plain_username"], self.config["sasl_mechanism"]
        login = f"the user {user!r} with {mechanism}" if mechanism else "this service"
        return Attempt(f"the broker {node.host}:{node.port}", login)


def _is_hang_up(error: BaseException | None) -> bool:
    """Whether somebody was there and ended the connection, or said something else than a broker would."""
    if not isinstance(error, KafkaConnectionError):
        return isinstance(error, KafkaProtocolError)
    signs = (error.__context__, *error.args)
    return any(isinstance(sign, ssl.SSLEOFError | ConnectionResetError) or sign == _DISCONNECTED for sign in signs)
