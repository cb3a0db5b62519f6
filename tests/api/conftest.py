"""An API on the embedded transport and the local store behind a real server, shared by most tests."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from api.app import create_app
from config import SECTIONS, Settings, load
from pipeline.download.ssrf.url_guard import UrlGuard
from pipeline.messages import SeparationTask, TaskEvent
from pipeline.storage import ObjectStore
from pipeline.storage.factory import open_store
from pipeline.topics import Topics
from pipeline.transport import Delivery, Message, Subscription, Transport
from pipeline.transport.factory import open_transport
from tests.api.http_client import Client, serving

CREDENTIALS = ("operator", "correct horse: battery")
MAX_REQUEST_BYTES = 60_000

#: Host names of these tests. No real name server is used.
ADDRESSES = {
    "cdn.example.com": "93.184.215.14",
    "app.example.com": "93.184.215.15",
    "private.example.com": "10.0.0.7",
    "metadata.example.com": "169.254.169.254",
    **{f"{name}.example.com": "93.184.215.16" for name in ("one", "two", "a", "b", "c")},
}


def resolve(host: str, port: int, **_hints: object) -> list[tuple[Any, ...]]:
    """Resolve like ``socket.getaddrinfo``."""
    if host == "later.example.com":
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
    if host.rstrip(".") not in ADDRESSES:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ADDRESSES[host.rstrip(".")], port))]


@dataclass
class Queue:
    """Reads the messages that the API has published since the last read."""

    subscription: Subscription

    def drain(self) -> list[Message]:
        messages = []
        while (delivery := self.subscription.receive(0.0)) is not None:
            messages.append(self._settled(delivery))
        return messages

    def _settled(self, delivery: Delivery) -> Message:
        self.subscription.settle(delivery)
        return delivery.message


@dataclass
class Service:
    """An API with its dependencies."""

    client: Client
    settings: Settings
    transport: Transport
    store: ObjectStore
    guard: UrlGuard
    topics: Topics
    tasks: Queue
    events: Queue

    def queued(self) -> list[SeparationTask]:
        return [SeparationTask.model_validate_json(message.value) for message in self.tasks.drain()]

    def queued_where(self) -> dict[str, str]:
        """Return the topic of each task."""
        return {message.key: message.topic for message in self.tasks.drain()}

    def reported(self) -> list[TaskEvent]:
        return [TaskEvent.model_validate_json(message.value) for message in self.events.drain()]


@pytest.fixture(scope="session")
def make_settings(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Settings]:
    """Return a factory of settings with their own data folder, independent of the environment of the tests."""

    def make(**variables: str) -> Settings:
        with pytest.MonkeyPatch.context() as patch:
            for section in SECTIONS:
                for field in section.model_fields.values():
                    patch.delenv(str(field.alias), raising=False)
            defaults = {
                "BASIC_AUTH_USERNAME": CREDENTIALS[0],
                "BASIC_AUTH_PASSWORD": CREDENTIALS[1],
                "DATA_DIR": str(tmp_path_factory.mktemp("data")),
                "MAX_REQUEST_BYTES": str(MAX_REQUEST_BYTES),
                "CLIENT_BURST": "100000",  # Most tests are one client with many jobs.
            }
            for name, value in {**defaults, **variables}.items():
                patch.setenv(name, value)
            return load(None)

    return make


@contextmanager
def serve(settings: Settings, transport: Transport | None = None, guard: UrlGuard | None = None) -> Iterator[Service]:
    """Run the API of ``settings`` behind a real server, with its dependencies."""
    transport = transport or open_transport(settings, max_poll_interval_ms=300_000)
    topics = Topics.from_settings(settings)
    transport.ensure_topics(topics.to_create())
    guard = guard or UrlGuard(False, resolver=resolve)
    store = open_store(settings)
    tasks = Queue(transport.subscribe(topics.jobs, "tests"))
    events = Queue(transport.subscribe([topics.events], "tests"))
    try:
        with serving(create_app(settings, transport, store, guard), settings.api.require_credentials()) as client:
            yield Service(client, settings, transport, store, guard, topics, tasks, events)
    finally:
        transport.close()


@pytest.fixture(scope="session")
def _shared(make_settings: Callable[..., Settings]) -> Iterator[Service]:
    with serve(make_settings()) as service:
        yield service


@pytest.fixture
def service(_shared: Service) -> Service:
    """The service that most tests share; its queues are empty at the start of a test."""
    _shared.queued()
    _shared.reported()
    return _shared


@pytest.fixture
def client(service: Service) -> Client:
    return service.client


@pytest.fixture
def own_service(make_settings: Callable[..., Settings]) -> Iterator[Service]:
    """A service that a test may break."""
    with serve(make_settings()) as service:
        yield service


@pytest.fixture
def job() -> dict[str, Any]:
    """The smallest valid job."""
    return {"audio": "https://cdn.example.com/song.mp3?token=s3cret", "hook_url": "https://app.example.com/hook"}
