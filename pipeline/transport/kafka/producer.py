"""How messages leave: published, which is awaited, or only reported, which nobody waits for."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Sequence
from contextlib import suppress

from kafka import KafkaProducer
from kafka.errors import IllegalStateError

from pipeline.errors import ErrorCode, InfrastructureError, PipelineError
from pipeline.service.logs import get_logger
from pipeline.transport.kafka.client import KafkaClients, force_close, refusal_of
from pipeline.transport.kafka.errors import CLIENT_ERRORS, translate_kafka_error, translated_kafka_errors
from pipeline.transport.protocol import Message, require_storable

log = get_logger(__name__)

#: Reports that may wait to be sent; more are dropped.
REPORTS_WAITING = 1000
#: How much more time must be left for what is offered than its trial took, in times of that.
TRIAL_MARGIN = 2.0
#: How long ``close`` waits for what is still buffered, s.
CLOSE_TIMEOUT = 5.0


class Producer:
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
        self._send(messages, time.monotonic() + self._clients.publish_timeout)

    def offer(self, messages: Sequence[Message], trial: Message) -> None:
        require_storable(messages)
        started = time.monotonic()
        deadline = started + self._clients.publish_timeout
        self._send((trial,), deadline)
        answered = time.monotonic()
        if TRIAL_MARGIN * (answered - started) > deadline - answered:
            raise _no_answer()
        self._send(messages, deadline)

    def _send(self, messages: Sequence[Message], deadline: float) -> None:
        client = self._connected(deadline)
        try:
            futures = [client.send(**_record(message)) for message in messages]
            for future in futures:
                future.get(timeout=max(0.01, deadline - time.monotonic()))
        except (IllegalStateError, RuntimeError) as error:
            if self._client is client:
                raise
            # Another publisher's failure has ended the client that we shared, at whichever line of its it was.
            raise _no_answer() from error
        except CLIENT_ERRORS as error:
            # Whatever it was: once a message was refused, an idempotent producer refuses everything
            # (kafka-python 3.0.12).
            refusal = refusal_of(client)
            self._discard(client)
            raise translate_kafka_error(refusal or error) from error

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
                with translated_kafka_errors():
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


class Reports:
    """Sends reports from a thread of its own, so that nobody ever waits for a broker that is away."""

    def __init__(self, producer: Producer) -> None:
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
