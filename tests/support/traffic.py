"""Publishers and a consumer on one topic, during failures of the broker, with a record of both ends."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from types import TracebackType
from typing import Self

from pipeline.errors import CancelledError, InfrastructureError
from pipeline.transport.kafka.transport import KafkaTransport
from pipeline.transport.protocol import Delivery, Message, Subscription

PATIENCE = 60.0
#: Pause between two messages of a publisher, s.
_PAUSE = 0.05


class Traffic:
    """Traffic within a ``with`` block; ``connect`` opens the connections of both ends."""

    def __init__(self, connect: Callable[[], KafkaTransport], topic: str, *, publishers: int = 1) -> None:
        self.published: set[bytes] = set()
        """Values that the broker has confirmed."""
        self.consumed: dict[bytes, int] = {}
        """Settled values, with their partitions."""
        self._topic = topic
        self._publisher, self._consumer = connect(), connect()
        self._published_enough, self._ended = threading.Event(), threading.Event()
        self._publishing = [threading.Thread(target=self._publish) for _ in range(publishers)]
        self._consuming = threading.Thread(target=self._consume)

    def __enter__(self) -> Self:
        for thread in (*self._publishing, self._consuming):
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop_publishing()
        self._ended.set()
        self._consuming.join()
        self._publisher.close()
        self._consumer.close()

    def stop_publishing(self) -> None:
        """Stop the publishers; return when no message is in flight."""
        self._published_enough.set()
        for thread in self._publishing:
            thread.join()

    def require_all_consumed(self) -> None:
        """Wait until every published message is settled. Raises AssertionError after ``PATIENCE`` s."""
        self.stop_publishing()
        wait_until(lambda: self.published <= self.consumed.keys())

    def _publish(self) -> None:
        while not self._published_enough.wait(_PAUSE):
            value = uuid.uuid4().hex
            try:
                self._publisher.publish(Message(self._topic, value, value.encode()))
            except InfrastructureError:
                continue
            self.published.add(value.encode())

    def _consume(self) -> None:
        subscription = self._consumer.subscribe([self._topic], f"group-of-{self._topic}")
        while not self._ended.is_set():
            try:
                delivery = subscription.receive(0.2)
            except InfrastructureError:
                continue
            if delivery is not None and self._settled(subscription, delivery):
                self.consumed[delivery.message.value] = delivery.partition

    def _settled(self, subscription: Subscription, delivery: Delivery) -> bool:
        """Settle as a worker does: retry until it succeeds or another consumer owns the partition."""
        while not self._ended.is_set():
            try:
                subscription.settle(delivery)
            except InfrastructureError:
                continue
            except CancelledError:
                return False
            return True
        return False


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for ``condition``. Raises AssertionError after ``PATIENCE`` s."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "the condition did not become true"
        time.sleep(0.05)
