"""An uploader that the power fails at a given step: before or after any of its calls to a store or a receiver."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.cancellation import CancelToken
from pipeline.download import UrlGuard
from pipeline.storage import ObjectStore, StoredObject
from tests.uploader.conftest import SECRET, Bench
from uploader.outcome_store import OutcomeStore
from uploader.service import Uploader
from uploader.webhook import WebhookSender


class PowerCut(BaseException):
    """No handler of the uploader's runs after this, as none runs after a power cut."""


class Fuse:
    """Holds for a number of steps; each call is two, one before it and one after."""

    def __init__(self, steps: int) -> None:
        self._left = steps

    @contextmanager
    def call(self) -> Iterator[None]:
        self._step()
        yield
        self._step()

    def _step(self) -> None:
        if self._left == 0:
            raise PowerCut
        self._left -= 1


class MortalStore:
    """A real store, for as long as the fuse holds."""

    def __init__(self, inner: ObjectStore, fuse: Fuse) -> None:
        self._inner = inner
        self._fuse = fuse

    def put(self, key: str, source: Path, *, content_type: str) -> StoredObject:
        with self._fuse.call():
            return self._inner.put(key, source, content_type=content_type)

    def get(self, key: str, target: Path) -> None:
        with self._fuse.call():
            self._inner.get(key, target)

    def put_new(self, key: str, content: bytes, *, content_type: str) -> bytes:
        with self._fuse.call():
            return self._inner.put_new(key, content, content_type=content_type)

    def read(self, key: str) -> bytes:
        with self._fuse.call():
            return self._inner.read(key)

    def stat(self, key: str) -> StoredObject | None:
        with self._fuse.call():
            return self._inner.stat(key)

    def copy_from(self, other: ObjectStore, source_key: str, key: str, *, content_type: str) -> StoredObject:
        source = other._inner if isinstance(other, MortalStore) else other
        with self._fuse.call():
            return self._inner.copy_from(source, source_key, key, content_type=content_type)

    def url(self, key: str) -> str:
        return self._inner.url(key)

    def delete(self, key: str) -> None:
        with self._fuse.call():
            self._inner.delete(key)

    def check(self) -> None:
        self._inner.check()


class MortalSender(WebhookSender):
    """A real sender, for as long as the fuse holds."""

    def __init__(self, fuse: Fuse) -> None:
        super().__init__(UrlGuard(allow_private=True), [SECRET], timeout=20.0)
        self._fuse = fuse

    def deliver(self, url: str, webhook_id: str, body: bytes, cancel: CancelToken) -> None:
        with self._fuse.call():
            super().deliver(url, webhook_id, body, cancel)


def mortal_uploader(bench: Bench, steps: int) -> Uploader:
    """One that dies after ``steps`` steps."""
    fuse = Fuse(steps)
    store = MortalStore(bench.store, fuse)
    return bench.uploader_with(
        handoff=MortalStore(bench.handoff, fuse),
        store=store,
        records=OutcomeStore(store),
        webhook=MortalSender(fuse),
    )
