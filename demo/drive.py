"""Run the demo as a client: post a song, follow its progress, receive the webhook, fetch and measure the stems."""

from __future__ import annotations

import hashlib
import json
import queue
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import requests
import soundfile

from config import Settings
from demo.listener import Listener, Received
from demo.sdr import sdr_db
from demo.song import Song, render_song, write_song
from pipeline.messages import TaskEvent, from_message
from pipeline.transport import Subscription
from pipeline.transport.factory import open_transport

#: Longest wait for the webhook, s; a song of 24 s takes a few seconds.
TIMEOUT = 600.0
_REQUEST_SECONDS = 60.0
_POLL_SECONDS = 0.25


class DemoError(Exception):
    """The demo failed; the message names the step."""


def run_demo(settings: Settings, api_url: str, folder: Path, *, watch: Callable[[], None]) -> Path:
    """Run one complete job with the services at `api_url`; return the folder with the stems.

    Song and stems are written below `folder`. `watch` is called during waits; it raises if a service has ended.
    Raises DemoError.
    """
    song = render_song()
    mixture = write_song(song, folder / "song").mixture
    secret = settings.webhook.secret
    with (
        Listener(mixture, secret.get_secret_value().split()[0] if secret else None) as listener,
        _events(settings) as events,
    ):
        task_uuid = _post(settings, api_url, listener)
        _say(f"accepted     task {task_uuid}")
        received = _follow(task_uuid, events, listener, watch)
    _check_webhook(received, signed=secret is not None)
    stems = _fetch(received.body["stems"], folder / "result" / task_uuid)
    _measure(song, stems)
    _say(f"stems        {stems}")
    return stems


def _post(settings: Settings, api_url: str, listener: Listener) -> str:
    answer = _request(
        "POST",
        f"{api_url}/generate",
        json={"audio": listener.song_url, "hook_url": listener.hook_url, "metadata": {"from": "demo"}},
        auth=settings.api.require_credentials(),
    )
    if answer.status_code != requests.codes.accepted:
        raise DemoError(f"POST /generate answered {answer.status_code}: {answer.text}")
    return str(answer.json()["task_uuid"])


def _request(method: str, url: str, **content: Any) -> requests.Response:
    with requests.Session() as session:
        session.trust_env = False  # a proxy cannot reach the services on this machine
        try:
            return session.request(method, url, timeout=_REQUEST_SECONDS, **content)
        except requests.RequestException as error:
            raise DemoError(f"{method} {url.partition('?')[0]} failed ({type(error).__name__})") from error


@contextmanager
def _events(settings: Settings) -> Iterator[Subscription]:
    """Subscribe to the progress events with the demo's own consumer group."""
    transport = open_transport(settings, max_poll_interval_ms=300_000)
    try:
        yield transport.subscribe([settings.kafka.event_topic], f"demo-{uuid.uuid4().hex[:8]}")
    finally:
        transport.close()


def _follow(task_uuid: str, events: Subscription, listener: Listener, watch: Callable[[], None]) -> Received:
    """Print the progress until the webhook arrives."""
    deadline = time.monotonic() + TIMEOUT
    printed = ""
    while time.monotonic() < deadline:
        delivery = events.receive(_POLL_SECONDS)
        if delivery is not None:
            event = from_message(TaskEvent, delivery.message)
            line = f"{event.status:<12} {event.progress:4.0%}"
            if str(event.task_uuid) == task_uuid and line != printed:
                _say(line)
                printed = line
            events.settle(delivery)
            continue
        watch()
        try:
            received = listener.received.get_nowait()
        except queue.Empty:
            continue
        if received.body["task_uuid"] == task_uuid:
            return received
    raise DemoError(f"no webhook arrived within {TIMEOUT:.0f} s")


def _check_webhook(received: Received, *, signed: bool) -> None:
    """Print the webhook. Raises DemoError unless its signature is valid and its status is success."""
    _say("webhook      " + json.dumps(received.body, indent=2).replace("\n", "\n             "))
    if signed and not received.verified:
        raise DemoError("the signature of the webhook is invalid")
    _say(f"signature    {'verified' if signed else 'none: WEBHOOK_SECRET is not set'}")
    if received.body["status"] != "success":
        raise DemoError(f"the task failed: {received.body.get('error_message')}")


def _fetch(stems: list[dict[str, Any]], folder: Path) -> Path:
    """Fetch every stem by its link, as a client would, and check its hash against the webhook."""
    folder.mkdir(parents=True, exist_ok=True)
    for stem in stems:
        answer = _request("GET", stem["url"])
        if answer.status_code != requests.codes.ok:
            raise DemoError(f"the link to {stem['name']} answered {answer.status_code}")
        if hashlib.sha256(answer.content).hexdigest() != stem["sha256"]:
            raise DemoError(f"the content behind the link to {stem['name']} has another SHA-256 than in the webhook")
        (folder / f"{stem['name']}.{stem['format']}").write_bytes(answer.content)
    return folder


def _measure(song: Song, folder: Path) -> None:
    """Print the SDR of the stems in dB: the energy of the true stem relative to the energy of the error."""
    for name, truth in (("vocals", song.vocals), ("instrumental", song.instrumental)):
        samples, _rate = soundfile.read(folder / f"{name}.wav", dtype="float32", always_2d=True)
        before, after = sdr_db(truth, song.mixture), sdr_db(truth, np.ascontiguousarray(samples.T))
        _say(f"SDR          {name:<12} mixture {before:6.2f} dB, separated {after:5.2f} dB ({after - before:+.2f} dB)")


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201  a person reads the demo's output
