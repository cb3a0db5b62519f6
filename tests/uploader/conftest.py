"""An uploader with real stores, a real transport and a real webhook receiver."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
import soundfile

from pipeline.download import UrlGuard
from pipeline.messages import SeparationResult, SeparationTask, StemFile, TaskEvent, from_message
from pipeline.progress import EventReporter
from pipeline.service.workdir import WorkDir
from pipeline.storage import ObjectStore
from pipeline.storage.local.store import LocalStore
from pipeline.storage.object_keys import handoff_key
from pipeline.storage.s3.store import S3Store
from pipeline.storage.signed_links import LinkSigner
from pipeline.transport.embedded.transport import EmbeddedTransport
from pipeline.transport.protocol import Message, Topic
from tests.support.buckets import new_bucket
from tests.support.webhook_receiver import WebhookReceiver
from uploader.outcome_store import OutcomeStore
from uploader.publish import StemPublisher
from uploader.receiver_share import ReceiverShare
from uploader.service import UploadHandler
from uploader.webhook import WebhookSender

SECRET = f"whsec_{base64.b64encode(bytes(32)).decode()}"
TASKS, RESULTS, RETRIES, EVENTS, DEAD_LETTERS = "tasks", "results", "retries", "events", "dead_letters"
RATE = 44_100
#: A receiver may hold half of the threads, for longer than this time, s.
THREADS, RECEIVER_PATIENCE = 4, 0.1

#: For tests on both kinds of store. With S3, one bucket serves as hand-off and as storage, as across machines.
ENGINES = pytest.mark.parametrize("bench", ["local", pytest.param("s3", marks=pytest.mark.s3)], indirect=True)


@dataclass(frozen=True)
class Bench:
    """The surroundings of an uploader."""

    folder: Path
    workdir: WorkDir
    transport: EmbeddedTransport
    handoff: ObjectStore
    store: ObjectStore
    receiver: WebhookReceiver

    @property
    def uploader(self) -> UploadHandler:
        """A new handler at each access, without the state of earlier ones, as after a crash."""
        return self.uploader_with()

    def uploader_with(
        self,
        handoff: ObjectStore | None = None,
        store: ObjectStore | None = None,
        outcomes: OutcomeStore | None = None,
        webhook: WebhookSender | None = None,
    ) -> UploadHandler:
        """Return a handler with some of its dependencies replaced."""
        store = store or self.store
        return UploadHandler(
            StemPublisher(handoff or self.handoff, store, self.workdir),
            outcomes or OutcomeStore(store),
            webhook or WebhookSender(UrlGuard(allow_private=True), [SECRET], timeout=20.0),
            ReceiverShare(THREADS, patience=RECEIVER_PATIENCE),
            EventReporter(self.transport, EVENTS),
            task_topic=TASKS,
            result_topic=RESULTS,
            dead_letter_topic=DEAD_LETTERS,
        )

    def task(self, **fields: Any) -> SeparationTask:
        """Return a task whose webhook goes to the receiver."""
        values = {"task_uuid": uuid4(), "audio": "http://127.0.0.1/song", "hook_url": self.receiver.url, **fields}
        return SeparationTask(**values)

    def hand_off(
        self, stems: Mapping[str, np.ndarray], task: SeparationTask | None = None, **fields: Any
    ) -> SeparationResult:
        """Store float32 stems of shape ``(frames, channels)`` in the hand-off, and return the processor's result."""
        task = task or self.task()
        files = tuple(self._stem(task, name, samples) for name, samples in stems.items())
        values = {"model": "demo.onnx", "device": "cpu", "timings": {"separate": 1.5}, **fields}
        return SeparationResult(task_uuid=task.task_uuid, task=task, status="success", stems=files, **values)

    def reported(self) -> list[TaskEvent]:
        """Return the events that were sent since the last call."""
        return [from_message(TaskEvent, message) for message in self.messages(EVENTS)]

    def messages(self, topic: str) -> list[Message]:
        """Return the messages of a topic that no earlier call has returned."""
        subscription = self.transport.subscribe([topic], "tests")
        seen = []
        while (delivery := subscription.receive(0.0)) is not None:
            seen.append(delivery.message)
            subscription.settle(delivery)
        subscription.close()
        return seen

    def _stem(self, task: SeparationTask, name: str, samples: np.ndarray) -> StemFile:
        path = self.folder / "processor.wav"
        # RF64, as the processor writes it: libsndfile's plain WAV contains the time of day.
        soundfile.write(path, samples.astype(np.float32), RATE, subtype="FLOAT", format="RF64")
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        key = handoff_key(task.task_uuid, task.run, name, sha256)
        stored = self.handoff.put(key, path, content_type="audio/wav")
        return StemFile(
            name=name,
            key=key,
            sha256=sha256,
            bytes=stored.bytes,
            duration=len(samples) / RATE,
            sample_rate=RATE,
            channels=samples.shape[1],
            peak=float(np.abs(samples).max()),
        )


@pytest.fixture
def receiver() -> Iterator[WebhookReceiver]:
    with WebhookReceiver() as receiver:
        yield receiver


@pytest.fixture
def bench(request: pytest.FixtureRequest, tmp_path: Path, receiver: WebhookReceiver) -> Iterator[Bench]:
    """Use local stores, unless the test requests S3."""
    transport = EmbeddedTransport(tmp_path / "broker.sqlite")
    topics = [Topic(name, None) for name in (TASKS, RESULTS, RETRIES, DEAD_LETTERS)]
    transport.ensure_topics([*topics, Topic(EVENTS, None, reports=True)])
    workdir = WorkDir(tmp_path / "work")
    if getattr(request, "param", "local") == "s3":
        handoff = store = S3Store(new_bucket(request.getfixturevalue("s3_server")))
        yield Bench(tmp_path, workdir, transport, handoff, store, receiver)
    else:
        local = LocalStore(tmp_path / "stems", "http://127.0.0.1:8000", LinkSigner(b"k" * 32))
        yield Bench(tmp_path, workdir, transport, LocalStore(tmp_path / "handoff"), local, receiver)
    transport.close()
    workdir.close()


@pytest.fixture
def song() -> dict[str, np.ndarray]:
    """Return two stems of 0.1 s."""
    rng = np.random.default_rng(0)
    return {name: rng.uniform(-0.5, 0.5, (4410, 2)) for name in ("vocals", "instrumental")}
