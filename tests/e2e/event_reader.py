"""Print the events and dead letters of the services, one JSON object per message, until standard input ends.

This is a separate process, because a Kafka client whose broker is killed leaves sockets open, which would fail the
tests in their process.
"""

from __future__ import annotations

import json
import sys
import threading
import uuid

from config import load
from pipeline.errors import CancelledError, PipelineError
from pipeline.service.logs import configure_logging
from pipeline.transport import Delivery, Subscription
from pipeline.transport.factory import open_transport


def main() -> None:
    settings = load(None)
    configure_logging("event-reader", settings.log)
    topics = [settings.kafka.event_topic, settings.kafka.dead_letter_topic]
    transport = open_transport(settings, max_poll_interval_ms=300_000)
    subscription = transport.subscribe(topics, f"event-reader-{uuid.uuid4().hex[:8]}")
    ended = threading.Event()
    threading.Thread(target=await_end, args=(ended,), daemon=True).start()
    while not ended.is_set():
        try:
            delivery = subscription.receive(0.2)
        except PipelineError:
            ended.wait(0.2)  # a test has killed the broker and will restart it
            continue
        if delivery is not None:
            report(delivery, dead=delivery.message.topic == topics[1])
            settle(subscription, delivery, ended)
    transport.close()


def settle(subscription: Subscription, delivery: Delivery, ended: threading.Event) -> None:
    """Settle the delivery, with retries: an open delivery blocks all others of its key."""
    while not ended.is_set():
        try:
            subscription.settle(delivery)
        except CancelledError:
            return
        except PipelineError:
            ended.wait(0.2)
        else:
            return


def await_end(ended: threading.Event) -> None:
    sys.stdin.read()
    ended.set()


def report(delivery: Delivery, *, dead: bool) -> None:
    content = {"dead": delivery.message.key} if dead else json.loads(delivery.message.value)
    sys.stdout.write(json.dumps(content) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
