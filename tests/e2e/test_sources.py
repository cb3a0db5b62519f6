"""Test that every fault of a source leads to one webhook with one clear sentence and the right code."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

import pytest
import requests

from tests.e2e.audio import Recording, check_stems, silence, song
from tests.e2e.service import CREDENTIALS, Service, signed
from tests.e2e.watcher import PATIENCE
from tests.support.source_server import (
    Behaviour,
    SourceServer,
    answer,
    chunked,
    content,
    redirect,
    reset_after,
    sequence,
)
from tests.support.webhook_receiver import WebhookReceiver

pytestmark = pytest.mark.slow

HTML = b"<!doctype html><html><head><title>Log in</title></head><body>Please log in to listen.</body></html>"
NOISE = random.Random(7).randbytes(300_000)


@dataclass(frozen=True)
class Case:
    """A source with which every job fails."""

    behaviour: Behaviour
    code: str
    requests: int = 1
    """Number of requests to the source."""
    retryable: bool = False


FAILING = {
    "404": Case(answer(404, body=HTML), "source_not_found"),
    "403": Case(answer(403, body=HTML), "source_refused"),
    "permanent 503": Case(answer(503), "source_unavailable", requests=3, retryable=True),
    "a web page": Case(content(HTML, "text/html"), "source_is_web_page"),
    "a web page declared as audio": Case(content(HTML, "audio/mpeg"), "source_is_web_page"),
    "random bytes": Case(content(NOISE, "audio/flac"), "not_audio"),
    "an empty file": Case(content(b"", "audio/flac"), "audio_empty"),
    "a song that is too long": Case(content(silence(201.0).file, "audio/flac"), "audio_too_long"),
    "a file that is too large": Case(content(bytes(24_000_001)), "source_too_large"),
    "a file that is too large, without a declared size": Case(chunked(*[bytes(1_000_000)] * 25), "source_too_large"),
    "half a song": Case(content(song(4.0).file[:200_000], "audio/flac"), "audio_corrupt"),
    "a redirect to the metadata service": Case(redirect("http://169.254.169.254/latest/meta-data/"), "url_forbidden"),
    "a redirect to a local file": Case(redirect("file:///etc/passwd"), "url_forbidden"),
}


@pytest.mark.parametrize("name", FAILING)
def test_unusable_source_fails_the_job(
    name: str, service: Service, source: SourceServer, receiver: WebhookReceiver
) -> None:
    case = FAILING[name]
    source.add("/song", case.behaviour)
    task_uuid = service.post(source.url("/song?token=secret"), receiver.url, metadata={"n": 1})
    (webhook,) = receiver.wait_for(1, PATIENCE)
    assert signed(webhook)
    body = webhook.json
    assert (body["task_uuid"], body["status"], body["metadata"]) == (task_uuid, "failed", {"n": 1})
    assert body["error"] == {"code": case.code, "retryable": case.retryable}
    # The message may contain the client's URL, without its query, which may contain secrets.
    check_sentence(body["error_message"].replace(source.url("/song"), "the source"))
    assert len(source.requests) == case.requests
    check_only(receiver, service, task_uuid, "failed")


def flaky(recording: Recording) -> dict[str, Behaviour]:
    file = recording.file
    return {
        "503, then the song": sequence(answer(503), content(file)),
        "a reset in the middle, then the song": sequence(reset_after(file, len(file) // 2), content(file)),
        "a truncated response, then the song": sequence(chunked(file[:1000], finished=False), content(file)),
        "a redirect to the song": sequence(redirect("/song?again"), content(file)),
        "the song declared as HTML": content(file, "text/html"),
    }


@pytest.mark.parametrize("name", flaky(Recording(silence(1).samples, 1, b"")))
def test_source_that_recovers(
    name: str, service: Service, source: SourceServer, receiver: WebhookReceiver, short_song: Recording
) -> None:
    source.add("/song", flaky(short_song)[name])
    task_uuid = service.post(source.url("/song"), receiver.url)
    (webhook,) = receiver.wait_for(1, PATIENCE)
    assert signed(webhook)
    assert (webhook.json["task_uuid"], webhook.json["status"]) == (task_uuid, "success")
    check_stems(webhook.json, short_song)
    check_only(receiver, service, task_uuid, "success")


def test_song_of_a_tenth_of_a_second(service: Service, source: SourceServer, receiver: WebhookReceiver) -> None:
    tiny = song(0.1)
    source.serve_bytes("/song", tiny.file)
    service.post(source.url("/song"), receiver.url)
    (webhook,) = receiver.wait_for(1, PATIENCE)
    assert webhook.json["status"] == "success", webhook.json
    check_stems(webhook.json, tiny)


@pytest.mark.usefixtures("quick_engine")
def test_private_addresses_are_rejected_if_not_allowed(
    service: Service, source: SourceServer, receiver: WebhookReceiver
) -> None:
    public = "https://93.184.216.34/"
    with service.another_api(ALLOW_PRIVATE_NETWORKS="false") as address:
        for audio, hook_url in ((source.url("/song"), public), (public, receiver.url), ("http://[::1]/song", public)):
            body = {"audio": audio, "hook_url": hook_url}
            answer = requests.post(f"{address}/generate", json=body, auth=CREDENTIALS, timeout=PATIENCE)
            assert answer.status_code == 403
            check_sentence(answer.json()["error"])
    assert (source.connections, receiver.received) == (0, [])


def check_sentence(text: str) -> None:
    """Check that a message is one sentence without paths, addresses or names of exceptions."""
    assert 10 < len(text) < 200
    assert "\n" not in text
    assert not re.search(r"/|\\|://|127\.0\.0\.1|169\.254|localhost|Error|Exception|secret", text), text


def check_only(receiver: WebhookReceiver, service: Service, task_uuid: str, state: str) -> None:
    """Check that the job has one outcome and one webhook."""
    assert service.watcher.outcomes(task_uuid) == [state]
    assert len(receiver.received) == 1
