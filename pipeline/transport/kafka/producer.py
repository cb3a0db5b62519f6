"""Sends messages: ``Producer`` waits until they are durable, ``ReportSender`` sends reports in the background."""

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
from pipeline.transport.kafka.client import KafkaClientFactory, force_close, last_refusal
from pipeline.transport.kafka.errors import CLIENT_ERRORS, translate_kafka_error, translated_kafka_errors
from pipeline.transport.protocol import Message, check_message_sizes

log = get_logger(__name__)

#: Maximum number of reports that wait to be sent; further reports are dropped.
MAX_PENDING_REPORTS = 1000
#: Minimum time that must remain for the messages after a probe, as a multiple of the probe's duration.
PROBE_MARGIN = 2.0
#: Maximum wait of ``close`` for buffered messages, s.
CLOSE_TIMEOUT = 5.0


class Producer:
    """One idempotent producer for the whole process, created on first use and again after a failure.

    A failed producer is closed and drops its unsent messages, so that nothing is sent after its caller has received the
    error. Messages that the broker had received and not confirmed by then may still be stored; no client can detect
    this.
    """

    def __init__(self, clients: KafkaClientFactory) -> None:
        self._clients = clients
        self._lock = threading.Lock()
        self._client: KafkaProducer | None = None
        self._closed = False

    def publish(self, messages: Sequence[Message]) -> None:
        """Store the messages. Raises as ``Transport.publish`` does."""
        if not messages:
            return
        check_message_sizes(messages)
        self._send(messages, time.monotonic() + self._clients.publish_timeout)

    def publish_probed(self, messages: Sequence[Message], probe: Message) -> None:
        """Store ``probe``, then the messages if enough time remains. Raises as ``Transport.publish`` does."""
        check_message_sizes(messages)
        started = time.monotonic()
        deadline = started + self._clients.publish_timeout
        self._send((probe,), deadline)
        confirmed = time.monotonic()
        if PROBE_MARGIN * (confirmed - started) > deadline - confirmed:
            raise _unavailable()
        self._send(messages, deadline)

    def _send(self, messages: Sequence[Message], deadline: float) -> None:
        client = self._connected(deadline)
        try:
            futures = [
                client.send(
                    message.topic,
                    key=message.key.encode(),
                    value=message.value,
                    headers=list(message.headers.items()),
                )
                for message in messages
            ]
            for future in futures:
                future.get(timeout=max(0.01, deadline - time.monotonic()))
        except (IllegalStateError, RuntimeError) as error:
            if self._client is client:
                raise
            # Another caller's failure has closed the shared client, at an arbitrary point of this call.
            raise _unavailable() from error
        except CLIENT_ERRORS as error:
            # After any rejected message, an idempotent producer rejects all further ones (kafka-python 3.0.12).
            refusal = last_refusal(client, error)
            self._discard(client)
            raise translate_kafka_error(refusal or error) from error

    def close(self) -> None:
        """Send buffered messages, and reject further ones."""
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
        # The wait for the lock is bounded, so that many callers do not queue behind one unavailable broker.
        if not self._lock.acquire(timeout=max(0.0, deadline - time.monotonic())):
            raise _unavailable()
        try:
            remaining = deadline - time.monotonic()
            if self._closed or remaining <= 0:
                raise _unavailable()
            if self._client is None:
                with translated_kafka_errors():
                    self._client = self._clients.producer(bootstrap_timeout=remaining)
            return self._client
        finally:
            self._lock.release()

    def _discard(self, client: KafkaProducer) -> None:
        with self._lock:
            if self._client is not client:
                return
            self._client = None
        force_close(client)


class ReportSender:
    """Sends reports from a background thread, so that no caller waits for an unavailable broker."""

    def __init__(self, producer: Producer) -> None:
        self._producer = producer
        self._pending: queue.Queue[tuple[Message, ...] | None] = queue.Queue(MAX_PENDING_REPORTS)
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def put(self, messages: tuple[Message, ...]) -> None:
        """Queue reports to send; they are dropped if the queue is full."""
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._send_until_closed, name="kafka-reports", daemon=True)
                self._thread.start()
        with suppress(queue.Full):
            self._pending.put_nowait(messages)

    def close(self) -> None:
        """Send queued reports, for ``CLOSE_TIMEOUT`` s at most."""
        if self._thread is None:
            return
        with suppress(queue.Full):
            self._pending.put_nowait(None)
        self._thread.join(CLOSE_TIMEOUT)

    def _send_until_closed(self) -> None:
        while (messages := self._pending.get()) is not None:
            try:
                self._producer.publish(messages)
            except PipelineError as error:
                log.warning("report_lost", error=error.message)


def _unavailable() -> InfrastructureError:
    return InfrastructureError("the broker does not answer", code=ErrorCode.BROKER_UNAVAILABLE)
