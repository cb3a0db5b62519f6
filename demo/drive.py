"""Run the demo as a client: post a song, follow its progress, receive the webhook, fetch and measure the stems."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile

from config import Settings
from demo.client import ClientError, LocalClient, fetch_stems, progress_printer, subscribed_events
from demo.listener import Listener, Received, signing_secret
from demo.sdr import sdr_db
from demo.song import Song, render_song, write_song

#: Longest wait for the webhook, s; a song of 24 s takes a few seconds.
TIMEOUT = 600.0


def run_demo(settings: Settings, api_url: str, folder: Path, *, watch: Callable[[], None]) -> Path:
    """Run one complete job with the services at `api_url`; return the folder with the stems.

    Song and stems are written below `folder`. `watch` is called during waits; it raises if a service cannot run.
    Raises ClientError.
    """
    song = render_song()
    mixture = write_song(song, folder / "song").mixture
    with (
        Listener({mixture.name: mixture}, signing_secret(settings)) as listener,
        subscribed_events(settings) as events,
    ):
        client = LocalClient(settings, api_url, listener, events, _with_time_limit(watch))
        task_uuid = client.post(audio=listener.url(mixture.name), metadata={"from": "demo"})
        _say(f"accepted     task {task_uuid}")
        (received,) = client.follow(
            [task_uuid], progress_printer(lambda _, status, progress: f"{status:<12} {progress:4.0%}")
        )
    _check_webhook(received, signed=settings.webhook.secret is not None)
    stems = folder / "result" / task_uuid
    fetch_stems(received.body["stems"], stems)
    _measure(song, stems)
    _say(f"stems        {stems}")
    return stems


def _with_time_limit(watch: Callable[[], None]) -> Callable[[], None]:
    """Return `watch`, which from now on also raises ClientError after `TIMEOUT`."""
    deadline = time.monotonic() + TIMEOUT

    def limited() -> None:
        watch()
        if time.monotonic() > deadline:
            raise ClientError(f"no valid webhook arrived within {TIMEOUT:.0f} s")

    return limited


def _check_webhook(received: Received, *, signed: bool) -> None:
    """Print the webhook. Raises ClientError unless its status is success."""
    _say("webhook      " + json.dumps(received.body, indent=2).replace("\n", "\n             "))
    _say(f"signature    {'verified' if signed else 'none: WEBHOOK_SECRET is not set'}")
    if received.body["status"] != "success":
        raise ClientError(f"the task failed: {received.body.get('error_message')}")


def _measure(song: Song, folder: Path) -> None:
    """Print the SDR of the stems in dB: the energy of the true stem relative to the energy of the error."""
    for name, truth in (("vocals", song.vocals), ("instrumental", song.instrumental)):
        samples, _rate = soundfile.read(folder / f"{name}.wav", dtype="float32", always_2d=True)
        before, after = sdr_db(truth, song.mixture), sdr_db(truth, np.ascontiguousarray(samples.T))
        _say(f"SDR          {name:<12} mixture {before:6.2f} dB, separated {after:5.2f} dB ({after - before:+.2f} dB)")


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201  a person reads the demo's output
