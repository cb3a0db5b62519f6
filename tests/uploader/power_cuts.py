"""An uploader that loses power at a given step: before or after any of its calls to a store or a receiver."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.cancellation import CancelToken
from pipeline.download import UrlGuard
from pipeline.storage import ObjectStore, StoredObject
from tests.uploader.conftest import SECRET, Bench
from uploader.outcome_store import OutcomeStore
from uploader.service import UploadHandler
from uploader.webhook import WebhookSender


class PowerCut(BaseException):
    """Ends the uploader: like after a power cut, none of its exception handlers runs."""


class Countdown:
    """Raises PowerCut after a number of steps; each call counts as two, one before it and one after it."""

    def __init__(self, steps: int) -> None:
        self._remaining = steps

    @contextmanager
    def call(self) -> Iterator[None]:
        self._step()
        yield
        self._step()

    def _step(self) -> None:
        if self._remaining == 0:
            raise PowerCut
        self._remaining -= 1


class FailingStore:
    """A real store until the power cut."""

    def __init__(self, inner: ObjectStore, countdown: Countdown) -> None:
        self._inner = inner
        self._countdown = countdown

    def put(self, key: str, source: Path, *, content_type: str) -> StoredObject:
        with self._countdown.call():
            return self._inner.put(key, source, content_type=content_type)

    def get(self, key: str, target: Path) -> None:
        with self._countdown.call():
            self._inner.get(key, target)

    def put_new(self, key: str, content: bytes, *, content_type: str) -> bytes:
        with self._countdown.call():
            return self._inner.put_new(key, content, content_type=content_type)

    def read(self, key: str) -> bytes:
        with self._countdown.call():
            return self._inner.read(key)

    def stat(self, key: str) -> StoredObject | None:
        with self._countdown.call():
            return self._inner.stat(key)

    def copy_from(self, other: ObjectStore, source_key: str, key: str, *, content_type: str) -> StoredObject:
        source = other._inner if isinstance(other, FailingStore) else other
        with self._countdown.call():
            return self._inner.copy_from(source, source_key, key, content_type=content_type)

    def url(self, key: str) -> str:
        return self._inner.url(key)

    def delete(self, key: str) -> None:
        with self._countdown.call():
            self._inner.delete(key)

    def check(self) -> None:
        self._inner.check()


class FailingSender(WebhookSender):
    """A real sender until the power cut."""

    def __init__(self, countdown: Countdown) -> None:
        super().__init__(UrlGuard(allow_private=True), [SECRET], timeout=20.0)
        self._countdown = countdown

    def deliver(self, url: str, webhook_id: str, body: bytes, cancel: CancelToken) -> None:
        with self._countdown.call():
            super().deliver(url, webhook_id, body, cancel)


def uploader_with_power_cut(bench: Bench, steps: int) -> UploadHandler:
    """Return a handler that loses power after ``steps`` steps."""
    countdown = Countdown(steps)
    store = FailingStore(bench.store, countdown)
    return bench.uploader_with(
        handoff=FailingStore(bench.handoff, countdown),
        store=store,
        outcomes=OutcomeStore(store),
        webhook=FailingSender(countdown),
    )
