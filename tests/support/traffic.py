"""Publishers and a consumer at work on a topic, through whatever happens to the broker, and a ledger of both ends."""

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
    """Runs from being entered until it is left; ``connect`` opens the connections of both ends."""

    def __init__(self, connect: Callable[[], KafkaTransport], topic: str, *, publishers: int = 1) -> None:
        self.published: set[bytes] = set()
        """What the broker has confirmed."""
        self.consumed: dict[bytes, int] = {}
        """What has been settled, with the partition that it was in."""
        self._topic = topic
        self._publisher, self._consumer = connect(), connect()
        self._full, self._over = threading.Event(), threading.Event()
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
        self._over.set()
        self._consuming.join()
        self._publisher.close()
        self._consumer.close()

    def stop_publishing(self) -> None:
        """Returns when nothing more is on its way to the broker."""
        self._full.set()
        for thread in self._publishing:
            thread.join()

    def require_all_consumed(self) -> None:
        """Wait until everything that was published is settled as well; fails if that takes too long."""
        self.stop_publishing()
        wait_until(lambda: self.published <= self.consumed.keys())

    def _publish(self) -> None:
        while not self._full.wait(_PAUSE):
            value = uuid.uuid4().hex
            try:
                self._publisher.publish(Message(self._topic, value, value.encode()))
            except InfrastructureError:
                continue
            self.published.add(value.encode())

    def _consume(self) -> None:
        subscription = self._consumer.subscribe([self._topic], f"group-of-{self._topic}")
        while not self._over.is_set():
            try:
                delivery = subscription.receive(0.2)
            except InfrastructureError:
                continue
            if delivery is not None and self._settled(subscription, delivery):
                self.consumed[delivery.message.value] = delivery.partition

    def _settled(self, subscription: Subscription, delivery: Delivery) -> bool:
        """As a worker does it: again and again, until it is done or another consumer's."""
        while not self._over.is_set():
            try:
                subscription.settle(delivery)
            except InfrastructureError:
                continue
            except CancelledError:
                return False
            return True
        return False


def wait_until(condition: Callable[[], bool]) -> None:
    """Fails if ``condition`` does not come true."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it has not come to pass"
        time.sleep(0.05)
