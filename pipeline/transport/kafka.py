"""The Kafka engine, on kafka-python: what everything beyond one machine uses."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from kafka import KafkaAdminClient, KafkaProducer
from kafka.errors import IllegalStateError, TopicAlreadyExistsError

from pipeline.errors import ErrorCode, InfrastructureError, PipelineError
from pipeline.telemetry import get_logger
from pipeline.transport.kafka_client import KafkaClients, force_close
from pipeline.transport.kafka_errors import CLIENT_ERRORS, translate, translated
from pipeline.transport.kafka_subscription import KafkaSubscription
from pipeline.transport.protocol import Message, Topic, require_storable

log = get_logger(__name__)

#: Reports that may wait to be sent; more are dropped.
REPORTS_WAITING = 1000
#: How long ``close`` waits for what is still buffered, s.
CLOSE_TIMEOUT = 5.0


class KafkaTransport:
    """See ``pipeline.transport.protocol.Transport``.

    ``publish_timeout``: s after which ``publish`` gives up. ``partitions``, ``replication_factor``: of topics that
    are created.
    """

    def __init__(
        self,
        bootstrap_servers: str,
        *,
        max_poll_interval_ms: int = 300_000,
        session_timeout_ms: int = 30_000,
        publish_timeout: float = 30.0,
        partitions: int = 12,
        replication_factor: int = 1,
    ) -> None:
        self._clients = KafkaClients(bootstrap_servers, publish_timeout, max_poll_interval_ms, session_timeout_ms)
        self._partitions = partitions
        self._replication_factor = replication_factor
        self._producer = _Producer(self._clients)
        self._reports = _Reports(self._producer)
        self._admin: KafkaAdminClient | None = None
        self._admin_lock = threading.Lock()
        self._subscriptions: list[KafkaSubscription] = []

    def ensure_topics(self, topics: Sequence[Topic]) -> None:
        with self._connected_admin() as admin:
            existing = set(admin.list_topics())
            for topic in topics:
                if topic.name not in existing:
                    self._create(admin, topic)

    def publish(self, *messages: Message) -> None:
        self._producer.publish(messages)

    def emit(self, *messages: Message) -> None:
        self._reports.put(messages)

    def subscribe(self, topics: Sequence[str], group: str) -> KafkaSubscription:
        subscription = KafkaSubscription(
            lambda: self._clients.consumer(group), self.publish, topics, self._clients.publish_timeout
        )
        self._subscriptions.append(subscription)
        return subscription

    def check(self) -> None:
        with self._connected_admin() as admin:
            admin.describe_cluster()

    def close(self) -> None:
        for subscription in self._subscriptions:
            subscription.close()
        self._reports.close()
        self._producer.close()
        with self._admin_lock:
            self._discard_admin()

    @contextmanager
    def _connected_admin(self) -> Iterator[KafkaAdminClient]:
        """The admin client, for one thread at a time; made anew after a failure."""
        with self._admin_lock:
            try:
                if self._admin is None:
                    self._admin = self._clients.admin()
                yield self._admin
            except CLIENT_ERRORS as error:
                self._discard_admin()
                raise translate(error) from error

    def _discard_admin(self) -> None:
        admin, self._admin = self._admin, None
        if admin is not None:
            with suppress(*CLIENT_ERRORS):
                admin.close()

    def _create(self, admin: KafkaAdminClient, topic: Topic) -> None:
        retention_ms = -1 if topic.retention is None else int(topic.retention * 1000)
        description = {
            "num_partitions": self._partitions,
            "replication_factor": self._replication_factor,
            "configs": {"retention.ms": str(retention_ms)},
        }
        # Another service that starts at the same moment may have been quicker.
        with suppress(TopicAlreadyExistsError):
            admin.create_topics({topic.name: description})
            log.info("topic_created", topic=topic.name, **description)


class _Producer:
    """One idempotent producer for the whole process, made on first use and made anew after a failure.

    A failed producer is ended with whatever it still held, so that nothing is sent after its publisher was told that
    it was not. What a broker had received but not answered by then may be stored all the same: nobody can tell.
    """

    def __init__(self, clients: KafkaClients) -> None:
        self._clients = clients
        self._lock = threading.Lock()
        self._client: KafkaProducer | None = None
        self._closed = False

    def publish(self, messages: Sequence[Message]) -> None:
        if not messages:
            return
        require_storable(messages)
        deadline = time.monotonic() + self._clients.publish_timeout
        client = self._connected(deadline)
        try:
            futures = [client.send(**_record(message)) for message in messages]
            for future in futures:
                future.get(timeout=max(0.01, deadline - time.monotonic()))
        except IllegalStateError as error:
            # Another publisher's failure has ended the client that we shared.
            raise _no_answer() from error
        except CLIENT_ERRORS as error:
            # Whatever it was: once a message was refused, an idempotent producer refuses everything
            # (kafka-python 3.0.12).
            self._discard(client)
            raise translate(error) from error

    def close(self) -> None:
        """Send what is buffered, and refuse what comes later."""
        with self._lock:
            self._closed = True
            client, self._client = self._client, None
        if client is None:
            return
        try:
            client.close(timeout=CLOSE_TIMEOUT)
        except CLIENT_ERRORS as error:
            log.warning("messages_unsent", error=type(error).__name__)
            force_close(client)

    def _connected(self, deadline: float) -> KafkaProducer:
        # Bounded, so that a crowd of publishers does not queue up behind one broker that is away.
        if not self._lock.acquire(timeout=max(0.0, deadline - time.monotonic())):
            raise _no_answer()
        try:
            left = deadline - time.monotonic()
            if self._closed or left <= 0:
                raise _no_answer()
            if self._client is None:
                with translated():
                    self._client = self._clients.producer(bootstrap_timeout=left)
            return self._client
        finally:
            self._lock.release()

    def _discard(self, client: KafkaProducer) -> None:
        with self._lock:
            if self._client is not client:
                return
            self._client = None
        force_close(client)


class _Reports:
    """Sends reports from a thread of its own, so that nobody ever waits for a broker that is away."""

    def __init__(self, producer: _Producer) -> None:
        self._producer = producer
        self._waiting: queue.Queue[tuple[Message, ...] | None] = queue.Queue(REPORTS_WAITING)
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def put(self, messages: tuple[Message, ...]) -> None:
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._send, name="kafka-reports", daemon=True)
                self._thread.start()
        with suppress(queue.Full):
            self._waiting.put_nowait(messages)

    def close(self) -> None:
        if self._thread is None:
            return
        with suppress(queue.Full):
            self._waiting.put_nowait(None)
        self._thread.join(CLOSE_TIMEOUT)

    def _send(self) -> None:
        while (messages := self._waiting.get()) is not None:
            try:
                self._producer.publish(messages)
            except PipelineError as error:
                log.warning("report_lost", error=error.message)


def _no_answer() -> InfrastructureError:
    return InfrastructureError("the broker does not answer", code=ErrorCode.BROKER_UNAVAILABLE)


def _record(message: Message) -> dict[str, object]:
    return {
        "topic": message.topic,
        "key": message.key.encode(),
        "value": message.value,
        "headers": list(message.headers.items()),
    }
