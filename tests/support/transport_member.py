"""A consumer in its own process, for tests that kill, freeze and restart consumers.

Takes one JSON argument; reports on standard output, one JSON object per line; reads commands from standard input.

mode ``hold``: receives one message, reports it, then settles it on a command or waits to be killed.
mode ``hold-first``: receives two messages, settles the second, reports, then waits to be killed.
mode ``release``: receives one message, releases it uncounted, reports, then waits to be killed.
mode ``drain``: receives and settles until a command.
mode ``work-on-all``: receives all messages, reports each, and settles none.
mode ``work``: runs the consumer loop with a handler that reports the start of a job and never finishes it.
mode ``serve``: runs the consumer loop on two worker threads, with short jobs, until SIGTERM.
mode ``die-in-settle``: receives one message and exits, as after a power cut, inside ``settle``: after the outputs have
been sent (Kafka) or written (embedded), before the offset has advanced.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from config import LogFormat, LogSettings
from pipeline.consuming.consumer import Consumer
from pipeline.consuming.handler import JobContext, JobRun, Outcome
from pipeline.consuming.retry import RetryPolicy
from pipeline.errors import CancelledError, PipelineError
from pipeline.service.logs import configure_logging
from pipeline.service.shutdown import StopSignal
from pipeline.transport.embedded.deliveries import GroupDeliveries
from pipeline.transport.embedded.transport import EmbeddedSubscription
from pipeline.transport.kafka.member import GroupMember
from pipeline.transport.kafka.subscription import KafkaSubscription
from pipeline.transport.protocol import Delivery, Message, Subscription
from tests.conformance.transport.backends import open_transport

#: How long a job takes in mode ``serve``, s.
JOB_SECONDS = 0.2


def report(**values: Any) -> None:
    sys.stdout.write(json.dumps(values) + "\n")
    sys.stdout.flush()


def receive_quietly(subscription: Subscription) -> Delivery:
    while (delivery := subscription.receive(1.0)) is None:
        pass
    return delivery


def receive(subscription: Subscription) -> Delivery:
    delivery = receive_quietly(subscription)
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


def hold_first(subscription: Subscription, job: dict[str, Any]) -> None:
    receive_quietly(subscription)
    subscription.settle(receive_quietly(subscription))
    report(event="settled")
    threading.Event().wait()


def release(subscription: Subscription, job: dict[str, Any]) -> None:
    subscription.release(receive_quietly(subscription), count_attempt=False)
    report(event="released")
    threading.Event().wait()


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
    last_steps: dict[type, tuple[type, str]] = {
        KafkaSubscription: (GroupMember, "commit"),
        EmbeddedSubscription: (GroupDeliveries, "settle"),
    }
    setattr(*last_steps[type(subscription)], lambda *_: os._exit(9))
    subscription.settle(delivery, *outputs(job, delivery))


def work_on_all(subscription: Subscription, job: dict[str, Any]) -> None:
    while True:
        receive(subscription)


@dataclass(frozen=True)
class EndlessRun:
    """Reports the job that it has begun, and waits for the process to be killed."""

    job: str
    context: JobContext

    def handle(self) -> Outcome:
        report(event="working", key=self.job, attempt=self.context.attempt)
        threading.Event().wait()
        raise AssertionError("the event is never set")

    def close(self) -> None:
        pass


@dataclass(frozen=True)
class SteadyRun:
    """Takes ``JOB_SECONDS``, and publishes the id of its process."""

    job: str
    context: JobContext
    output: str

    def handle(self) -> Outcome:
        self.context.cancel.wait(JOB_SECONDS)
        self.context.cancel.raise_if_set()
        return Outcome((Message(self.output, self.job, str(os.getpid()).encode()),))

    def close(self) -> None:
        pass


@dataclass(frozen=True)
class Handler:
    """Begins the runs of a mode, of which none fails."""

    begin: Callable[[str, JobContext], JobRun]

    def on_failure(self, job: str, error: PipelineError) -> Outcome:
        raise AssertionError("no job fails in this mode")


def serve(subscription: Subscription, job: dict[str, Any]) -> None:
    stop = StopSignal(10.0)
    stop.install()
    report(event="serving")
    Consumer(
        subscription=subscription,
        parse=lambda message: message.key,
        handler=Handler(lambda key, context: SteadyRun(key, context, job["output"])),
        policy=RetryPolicy(),
        sources=frozenset([job["topic"]]),
        retry_topics={},
        dead_letter_topic="unused",
        stop=stop,
        concurrency=2,
    ).run()
    report(event="left")


def work(subscription: Subscription, job: dict[str, Any]) -> None:
    Consumer(
        subscription=subscription,
        parse=lambda message: message.key,
        handler=Handler(EndlessRun),
        policy=RetryPolicy(),
        sources=frozenset([job["topic"]]),
        retry_topics={},
        dead_letter_topic="unused",
        stop=StopSignal(60.0),
    ).run()


MODES = {
    "serve": serve,
    "hold": hold,
    "hold-first": hold_first,
    "release": release,
    "drain": drain,
    "work": work,
    "work-on-all": work_on_all,
    "die-in-settle": die_in_settle,
}

if __name__ == "__main__":
    configure_logging("member", LogSettings(format=LogFormat.CONSOLE))
    description = json.loads(sys.argv[1])
    transport = open_transport(description)
    MODES[description["mode"]](transport.subscribe([description["topic"]], description["group"]), description)
