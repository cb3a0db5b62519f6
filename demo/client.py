"""A client of the services on this machine: post jobs, follow their progress, receive webhooks, fetch stems."""

from __future__ import annotations

import hashlib
import queue
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from config import Settings
from demo.listener import Listener, Received
from pipeline.messages import TaskEvent, from_message
from pipeline.transport import Subscription
from pipeline.transport.factory import open_transport

_REQUEST_SECONDS = 60.0
_POLL_SECONDS = 0.25
_CHUNK_BYTES = 1 << 20


class ClientError(Exception):
    """A step of the client failed; the message names the step and the reason."""


@dataclass(frozen=True)
class LocalClient:
    """Posts jobs to the services and follows them.

    `watch` is called during waits; it raises if the services have ended.
    """

    settings: Settings
    api_url: str
    listener: Listener
    events: Subscription
    watch: Callable[[], None]

    def post(self, **fields: Any) -> str:
        """Post a job with these fields and `hook_url`; return its `task_uuid`. Raises ClientError."""
        answer = _request(
            "POST",
            f"{self.api_url}/generate",
            json={"hook_url": self.listener.hook_url, **fields},
            auth=self.settings.api.require_credentials(),
        )
        if answer.status_code != requests.codes.accepted:
            raise ClientError(f"POST /generate answered {answer.status_code}: {_error_in(answer)}")
        return str(answer.json()["task_uuid"])

    def follow(self, tasks: Iterable[str], report: Callable[[str, str, float], None]) -> Iterator[Received]:
        """Yield the webhook of each task when it arrives. `report(task, status, progress)`: called at each event.

        Raises ClientError if the signature of a webhook is invalid.
        """
        missing = set(tasks)
        while missing:
            delivery = self.events.receive(_POLL_SECONDS)
            if delivery is not None:
                event = from_message(TaskEvent, delivery.message)
                self.events.settle(delivery)
                if str(event.task_uuid) in missing:
                    report(str(event.task_uuid), str(event.status), event.progress)
                continue
            self.watch()
            try:
                received = self.listener.received.get_nowait()
            except queue.Empty:
                continue
            task_uuid = received.body.get("task_uuid")
            if task_uuid in missing:
                if self.settings.webhook.secret is not None and not received.verified:
                    raise ClientError("the signature of the webhook is invalid")
                missing.remove(task_uuid)
                yield received


@contextmanager
def subscribed_events(settings: Settings) -> Iterator[Subscription]:
    """Subscribe to the progress events with a consumer group of its own."""
    transport = open_transport(settings, max_poll_interval_ms=300_000)
    try:
        yield transport.subscribe([settings.kafka.event_topic], f"client-{uuid.uuid4().hex[:8]}")
    finally:
        transport.close()


def progress_printer(line_of: Callable[[str, str, float], str]) -> Callable[[str, str, float], None]:
    """Return a function that prints `line_of(task, status, progress)` when the line of the task has changed."""
    printed: dict[str, str] = {}

    def report(task: str, status: str, progress: float) -> None:
        line = line_of(task, status, progress)
        if printed.get(task) != line:
            printed[task] = line
            print(line, flush=True)  # noqa: T201  a person follows the progress

    return report


def fetch_stems(stems: Iterable[dict[str, Any]], folder: Path) -> list[Path]:
    """Fetch every stem by its link into `folder`, and check its hash against the webhook. Raises ClientError."""
    folder.mkdir(parents=True, exist_ok=True)
    return [_fetch_stem(stem, folder) for stem in stems]


def _fetch_stem(stem: dict[str, Any], folder: Path) -> Path:
    name = stem["name"]
    answer = _request("GET", stem["url"], stream=True)
    if answer.status_code != requests.codes.ok:
        raise ClientError(f"the link to {name} answered {answer.status_code}")
    path = folder / f"{_file_name(name)}.{_file_name(stem['format'])}"
    partial = path.with_name(f"{path.name}.part")
    digest = hashlib.sha256()
    try:
        with partial.open("wb") as file:
            for chunk in answer.iter_content(_CHUNK_BYTES):
                digest.update(chunk)
                file.write(chunk)
        if digest.hexdigest() != stem["sha256"]:
            raise ClientError(f"the content behind the link to {name} has another SHA-256 than in the webhook")
        partial.replace(path)
    except requests.RequestException as error:
        raise ClientError(f"{name} could not be fetched completely ({type(error).__name__})") from error
    finally:
        partial.unlink(missing_ok=True)
    return path


def _file_name(name: str) -> str:
    """Return a name without characters that mean something in a path."""
    return name.replace("/", "_").replace("\0", "_").lstrip(".") or "stem"


def _request(method: str, url: str, **content: Any) -> requests.Response:
    with requests.Session() as session:
        session.trust_env = False  # a proxy cannot reach the services on this machine
        try:
            return session.request(method, url, timeout=_REQUEST_SECONDS, **content)
        except requests.RequestException as error:
            raise ClientError(f"{method} {url.partition('?')[0]} failed ({type(error).__name__})") from error


def _error_in(answer: requests.Response) -> str:
    """Return the sentences of an error of the API."""
    try:
        body = answer.json()
        return ": ".join(str(part) for part in (body["error"], body.get("details")) if part)
    except (ValueError, KeyError, TypeError, AttributeError):
        return answer.text[:200]
