"""An uploader on real stores, a real transport and a real receiver of its webhooks."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import numpy as np
import pytest
import soundfile

from pipeline.cancel import CancelToken
from pipeline.consumer import JobContext
from pipeline.download import UrlGuard
from pipeline.events import Reporter
from pipeline.messages import SeparationResult, StemFile, TaskEvent, from_message
from pipeline.storage.keys import handoff_key
from pipeline.storage.links import LinkSigner
from pipeline.storage.local import LocalStore
from pipeline.transport.embedded import EmbeddedTransport
from pipeline.transport.protocol import Message, Topic
from pipeline.workdir import WorkDir
from tests.support.webhook_receiver import WebhookReceiver
from uploader.publish import StemPublisher
from uploader.service import Uploader
from uploader.webhook import WebhookSender

SECRET = f"whsec_{base64.b64encode(bytes(32)).decode()}"
RESULTS, EVENTS, DEAD_LETTERS = "results", "events", "dead_letters"
RATE = 44_100


@dataclass(frozen=True)
class Bench:
    """The uploader and everything around it."""

    folder: Path
    workdir: WorkDir
    transport: EmbeddedTransport
    handoff: LocalStore
    store: LocalStore
    receiver: WebhookReceiver
    uploader: Uploader

    def hand_off(self, stems: Mapping[str, np.ndarray], **known: Any) -> SeparationResult:
        """What the processor leaves: float32 stems of shape (frames, channels), and the result that tells of them."""
        task_uuid = known.pop("task_uuid", None) or uuid4()
        files = tuple(self._stem(task_uuid, name, samples) for name, samples in stems.items())
        values = {"model": "demo.onnx", "device": "cpu", "timings": {"separate": 1.5}, **known}
        return SeparationResult(
            task_uuid=task_uuid, status="success", hook_url=self.receiver.url, stems=files, **values
        )

    def reported(self) -> list[TaskEvent]:
        """The events that were sent since the last look."""
        return [from_message(TaskEvent, message) for message in self.messages(EVENTS)]

    def messages(self, topic: str) -> list[Message]:
        """What lies in a topic and was not looked at before."""
        subscription = self.transport.subscribe([topic], "tests")
        seen = []
        while (delivery := subscription.receive(0.0)) is not None:
            seen.append(delivery.message)
            subscription.settle(delivery)
        subscription.close()
        return seen

    def _stem(self, task_uuid: UUID, name: str, samples: np.ndarray) -> StemFile:
        path = self.folder / "processor.wav"
        soundfile.write(path, samples.astype(np.float32), RATE, subtype="FLOAT")
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        key = handoff_key(task_uuid, name, sha256)
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
def bench(tmp_path: Path, receiver: WebhookReceiver) -> Iterator[Bench]:
    transport = EmbeddedTransport(tmp_path / "broker.sqlite")
    transport.ensure_topics([Topic(RESULTS, None), Topic(EVENTS, None, reports=True), Topic(DEAD_LETTERS, None)])
    handoff = LocalStore(tmp_path / "handoff")
    workdir = WorkDir(tmp_path / "work")
    store = LocalStore(tmp_path / "stems", "http://127.0.0.1:8000", LinkSigner(b"k" * 32))
    uploader = Uploader(
        StemPublisher(handoff, store, workdir),
        WebhookSender(UrlGuard(allow_private=True), [SECRET], timeout=20.0),
        Reporter(transport, EVENTS),
        result_topic=RESULTS,
        dead_letter_topic=DEAD_LETTERS,
    )
    yield Bench(tmp_path, workdir, transport, handoff, store, receiver, uploader)
    transport.close()
    workdir.close()


@pytest.fixture
def context() -> JobContext:
    return JobContext(CancelToken(), attempt=1)


@pytest.fixture
def song() -> dict[str, np.ndarray]:
    """Two stems of a tenth of a second."""
    rng = np.random.default_rng(0)
    return {name: rng.uniform(-0.5, 0.5, (4410, 2)) for name in ("vocals", "instrumental")}
