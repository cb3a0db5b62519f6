"""A consumer in a process of its own, for tests that kill, freeze and restart consumers.

Takes one JSON argument; reports on standard output, one JSON object a line; takes commands on standard input.

mode ``hold``: receives one message, reports it, then obeys ``settle`` or waits to be killed.
mode ``drain``: receives and settles until told anything.
mode ``work``: runs the consumer loop with a worker that reports the job it has begun and never ends it.
mode ``die-in-settle``: receives one message and ends, as by a power cut, inside ``settle``: after the outputs have
been sent (Kafka) or written (embedded), before the offset has advanced.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from typing import Any

from config import LogFormat, LogSettings
from pipeline.consumer import Consumer, JobContext, Outcome
from pipeline.errors import CancelledError, PipelineError
from pipeline.lifecycle import StopSignal
from pipeline.retry import RetryPolicy
from pipeline.telemetry import configure_logging
from pipeline.transport.embedded import EmbeddedSubscription
from pipeline.transport.kafka_subscription import KafkaSubscription
from pipeline.transport.protocol import Delivery, Message, Subscription
from tests.conformance.transport.backends import open_transport


def report(**values: Any) -> None:
    sys.stdout.write(json.dumps(values) + "\n")
    sys.stdout.flush()


def receive(subscription: Subscription) -> Delivery:
    while (delivery := subscription.receive(1.0)) is None:
        pass
    report(event="received", key=delivery.message.key, offset=delivery.offset, attempt=delivery.attempt)
    return delivery


def outputs(job: dict[str, Any], delivery: Delivery) -> list[Message]:
    return [Message(job["output"], delivery.message.key, b"done")] if "output" in job else []


def hold(subscription: Subscription, job: dict[str, Any]) -> None:
    delivery = receive(subscription)
    for _command in sys.stdin:
        try:
            subscription.settle(delivery, *outputs(job, delivery))
            report(event="settled", cancelled=delivery.cancel.is_set())
        except CancelledError:
            report(event="refused", cancelled=delivery.cancel.is_set())


def drain(subscription: Subscription, job: dict[str, Any]) -> None:
    stop = threading.Event()

    def await_command() -> None:
        sys.stdin.readline()
        stop.set()

    threading.Thread(target=await_command, daemon=True).start()
    while not stop.is_set():
        delivery = subscription.receive(0.2)
        if delivery is None:
            continue
        report(event="received", key=delivery.message.key, offset=delivery.offset, attempt=delivery.attempt)
        try:
            subscription.settle(delivery, *outputs(job, delivery))
        except CancelledError:
            continue
    subscription.close()
    report(event="left")


def die_in_settle(subscription: Subscription, job: dict[str, Any]) -> None:
    delivery = receive(subscription)
    last_step = {KafkaSubscription: "_commit", EmbeddedSubscription: "_advance_mark"}[type(subscription)]
    setattr(type(subscription), last_step, lambda *_: os._exit(9))
    subscription.settle(delivery, *outputs(job, delivery))


class EndlessWorker:
    """Reports what it has begun, and waits to be killed."""

    def handle(self, job: str, context: JobContext) -> Outcome:
        report(event="working", key=job, attempt=context.attempt)
        threading.Event().wait()
        raise AssertionError("nobody wakes it")

    def on_failure(self, job: str, error: PipelineError) -> Outcome:
        raise AssertionError("it never ends")


def work(subscription: Subscription, job: dict[str, Any]) -> None:
    Consumer(
        subscription=subscription,
        parse=lambda message: message.key,
        worker=EndlessWorker(),
        policy=RetryPolicy(),
        dead_letter_topic="unused",
        stop=StopSignal(60.0),
    ).run()


MODES = {"hold": hold, "drain": drain, "work": work, "die-in-settle": die_in_settle}

if __name__ == "__main__":
    configure_logging("member", LogSettings(format=LogFormat.CONSOLE))
    description = json.loads(sys.argv[1])
    transport = open_transport(description)
    MODES[description["mode"]](transport.subscribe([description["topic"]], description["group"]), description)
