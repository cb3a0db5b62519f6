"""A consumer loop in a thread, with a scripted handler, on one engine."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pipeline.backoff import Backoff
from pipeline.consuming.circuit_breaker import CircuitBreaker
from pipeline.consuming.consumer import Consumer
from pipeline.consuming.handler import JobContext, JobHandler, Outcome
from pipeline.consuming.retry import RetryPolicy
from pipeline.errors import (
    ErrorCode,
    InfrastructureError,
    PermanentError,
    PipelineError,
    TransientError,
)
from pipeline.service.shutdown import StopSignal
from pipeline.transport.protocol import Delivery, Message, Subscription
from tests.conformance.transport.backends import Backend

DEADLINE = 30.0
SHORT = Backoff(base=0.01, cap=0.05)
DELAYS = (0.2, 0.4)
POLICY = RetryPolicy(max_attempts=3, max_crashes=2, delays=DELAYS, infrastructure=SHORT)

NOT_FOUND = PermanentError("the source answers 404", code=ErrorCode.SOURCE_NOT_FOUND)
UNAVAILABLE = TransientError("the source answers 503", code=ErrorCode.SOURCE_UNAVAILABLE)
STORAGE_DOWN = InfrastructureError("the storage does not answer", code=ErrorCode.STORAGE_UNAVAILABLE)


def parse(message: Message) -> str:
    """Decode a job, which is ASCII text."""
    try:
        return message.value.decode("ascii")
    except UnicodeDecodeError:
        raise PermanentError("the message is not text", code=ErrorCode.MESSAGE_INVALID) from None


@dataclass
class Topics:
    jobs: str
    results: str
    dead_letters: str
    retries: dict[float, str]


Step = Exception | Callable[["ScriptedRun"], None] | None


@dataclass
class ScriptedRun:
    """Takes the next step of the handler's script at each try."""

    handler: ScriptedHandler
    job: str
    context: JobContext
    kept: list[str] = field(default_factory=list)
    """State that the tries of this run share."""

    def handle(self) -> Outcome:
        handler = self.handler
        handler.tries.append((self.job, self.context.attempt))
        handler.tried_at.append(time.time())
        step = handler.script.pop(0) if handler.script else None
        if isinstance(step, Exception):
            raise step
        if step is not None:
            step(self)
        handler.done.set()
        return Outcome((Message(handler.results, "k", handler.output),))

    def close(self) -> None:
        self.handler.closed.append(self.job)


@dataclass
class ScriptedHandler:
    """Follows its script, one step for each try, and succeeds after the end of the script."""

    results: str
    script: list[Step] = field(default_factory=list)
    output: bytes = b"done"
    tries: list[tuple[str, int]] = field(default_factory=list)
    """The job and the number of the delivery, for each try."""
    tried_at: list[float] = field(default_factory=list)
    """The time of each try, s since the epoch."""
    closed: list[str] = field(default_factory=list)
    """The job of each closed run."""
    done: threading.Event = field(default_factory=threading.Event)
    """Set when a job has succeeded and is about to be settled."""

    def begin(self, job: str, context: JobContext) -> ScriptedRun:
        return ScriptedRun(self, job, context)

    def on_failure(self, job: str, error: PipelineError) -> Outcome:
        return Outcome((Message(self.results, "k", f"failed: {job}: {error.code}".encode()),))


class Loop:
    """A consumer loop in a separate thread."""

    def __init__(
        self,
        subscription: Subscription,
        topics: Topics,
        handler: JobHandler[str],
        grace: float,
        **options: Any,
    ) -> None:
        """``options``: further fields of the Consumer."""
        self.stop = StopSignal(grace)
        self.breaker: CircuitBreaker = options.pop("breaker", None) or CircuitBreaker()
        options = {"parse": parse, "policy": POLICY, **options}
        self._consumer = Consumer(
            subscription=subscription,
            handler=handler,
            sources=frozenset([topics.jobs]),
            retry_topics=topics.retries,
            dead_letter_topic=topics.dead_letters,
            stop=self.stop,
            breaker=self.breaker,
            **options,
        )
        self._errors: list[BaseException] = []
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._consumer.run()
        except BaseException as error:  # noqa: BLE001  checked by stop_and_join()
            self._errors.append(error)

    def wait_for_error(self) -> BaseException:
        """Wait until the loop ends by itself, and return its error."""
        self._thread.join(DEADLINE)
        (error,) = self._errors
        return error

    def join(self) -> None:
        """Wait until the loop ends by itself."""
        self._thread.join(DEADLINE)
        assert not self._thread.is_alive()

    def stop_and_join(self) -> None:
        """Stop the loop. Fails if it does not stop, or has ended with an error."""
        self.stop.request("the end of the test")
        self._thread.join(DEADLINE)
        assert not self._thread.is_alive()
        assert self._errors == []


@dataclass
class Stage:
    """The transport, the topics and the running loops of a test."""

    backend: Backend
    topics: Topics
    group: str
    loops: list[Loop] = field(default_factory=list)

    def publish(self, *values: bytes, keys: str = "") -> None:
        """Publish jobs, with the same key or with one character of ``keys`` each."""
        pairs = zip(keys or "k" * len(values), values, strict=True)
        self.backend.open().publish(*[Message(self.topics.jobs, key, value) for key, value in pairs])

    def subscribe(self) -> Subscription:
        return self.backend.open().subscribe([self.topics.jobs, *self.topics.retries.values()], self.group)

    def handler(self, *script: Step) -> ScriptedHandler:
        return ScriptedHandler(self.topics.results, list(script))

    def run(
        self,
        handler: JobHandler[str],
        *,
        grace: float = DEADLINE,
        subscription: Subscription | None = None,
        **options: Any,
    ) -> Loop:
        loop = Loop(subscription or self.subscribe(), self.topics, handler, grace, **options)
        self.loops.append(loop)
        return loop

    def outputs(self, results: int, dead_letters: int = 0) -> tuple[list[bytes], list[Message]]:
        """Return exactly that many outputs, after all jobs are settled and the loops have left."""
        found: list[Message] = []
        both = [self.topics.results, self.topics.dead_letters]
        subscription = self.backend.open().subscribe(both, f"{self.group}-outputs")
        while len(found) < results + dead_letters:
            delivery = subscription.receive(DEADLINE)
            assert delivery is not None, f"only {found}"
            subscription.settle(delivery)
            found.append(delivery.message)
        for loop in self.loops:
            loop.stop_and_join()
        assert subscription.receive(0.2) is None
        values = [message.value for message in found if message.topic == self.topics.results]
        letters = [message for message in found if message.topic == self.topics.dead_letters]
        assert (len(values), len(letters)) == (results, dead_letters)
        return values, letters

    def wait_for_retry(self, value: bytes) -> None:
        """Wait until the job is in the first retry topic."""
        observer = self.backend.open().subscribe([self.topics.retries[DELAYS[0]]], f"{self.group}-observer")
        delivery = observer.receive(DEADLINE)
        observer.close()
        assert delivery is not None
        assert delivery.message.value == value

    def next_delivery(self) -> Delivery:
        """Return the next job that a later consumer receives."""
        delivery = self.subscribe().receive(DEADLINE)
        assert delivery is not None, "no job is left"
        return delivery

    def is_drained(self) -> bool:
        self.publish(b"sentinel")
        return self.next_delivery().message.value == b"sentinel"
