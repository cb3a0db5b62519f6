"""Test the service with a client that uses only the published contract, as written for the older service."""

from __future__ import annotations

import base64
import io
import json
import time
import urllib.request
import uuid
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
import requests
import soundfile

from demo.random_network import Metadata, Shape, install_random_model
from tests.e2e.audio import Recording, check_stems, fetched, recording
from tests.e2e.service import CREDENTIALS, WEBHOOK_SECRET, Service
from tests.e2e.watcher import PATIENCE
from tests.support.source_server import SourceServer
from tests.support.webhook_receiver import Received, WebhookReceiver

pytestmark = pytest.mark.slow

MODEL = "uvr_demo_centre_vocals.onnx"


@pytest.fixture
def audio(source: SourceServer, short_song: Recording) -> str:
    source.serve_bytes("/song.flac", short_song.file, "audio/flac")
    return source.url("/song.flac")


def generate(service: Service, body: dict[str, Any]) -> dict[str, Any]:
    """Post a job as the old client does, with the standard library."""
    token = base64.b64encode(":".join(CREDENTIALS).encode()).decode()
    headers = {"Content-Type": "application/json", "Authorization": f"Basic {token}"}
    request = urllib.request.Request(f"{service.url}/generate", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
        assert answer.status == 202
        accepted: dict[str, Any] = json.load(answer)
    service.accepted.append(accepted["task_uuid"])
    return accepted


def webhook_body(service: Service, receiver: WebhookReceiver, **body: Any) -> dict[str, Any]:
    """Run one job; return the body of its webhook."""
    task_uuid = generate(service, {"hook_url": receiver.url, **body})["task_uuid"]
    (webhook,) = receiver.wait_for(1, PATIENCE)
    assert webhook.json["task_uuid"] == task_uuid
    received: dict[str, Any] = webhook.json
    return received


def test_old_client(service: Service, audio: str, receiver: WebhookReceiver, short_song: Recording) -> None:
    accepted = generate(service, {"audio": audio, "hook_url": receiver.url})
    assert {name: accepted[name] for name in ("message", "status")} == {
        "message": "Task has been queued for processing",
        "status": "queued",
    }
    assert uuid.UUID(accepted["task_uuid"]).version == 4
    (webhook,) = receiver.wait_for(1, PATIENCE)
    assert webhook.headers["content-type"] == "application/json"
    body = webhook.json
    assert (body["task_uuid"], body["status"]) == (accepted["task_uuid"], "success")
    assert abs(body["timestamp"] - time.time()) < PATIENCE
    assert type(body["timestamp"]) is int
    for name in ("vocals", "instrumental"):
        assert urlsplit(body[name]).path.endswith(f"/{accepted['task_uuid']}_{name}.wav")
        with urllib.request.urlopen(body[name], timeout=PATIENCE) as answer:
            assert soundfile.info(io.BytesIO(answer.read())).frames == len(short_song.samples)


def test_new_fields_extend_the_old_ones(service: Service, audio: str, receiver: WebhookReceiver) -> None:
    body = webhook_body(service, receiver, audio=audio)
    assert body["model"] == MODEL
    assert body["device"]
    assert body["metadata"] is None
    assert body["degraded"] == []
    assert {"download", "separate", "upload"} <= body["timings"].keys()
    for stem in body["stems"]:
        assert " ".join(stem) == "name url sha256 bytes duration sample_rate channels bits format"
        assert (stem["duration"], stem["sample_rate"], stem["channels"]) == (2.0, 44_100, 2)
        assert (stem["bits"], stem["format"]) == (16, "wav")


def test_flac(service: Service, audio: str, receiver: WebhookReceiver, short_song: Recording) -> None:
    body = webhook_body(service, receiver, audio=audio, output_format="flac")
    assert {stem["format"] for stem in body["stems"]} == {"flac"}
    check_stems(body, short_song)


@pytest.mark.parametrize("output_format", ["wav", "flac"])
def test_quiet_24_bit_song_at_48_khz_stays_audible(
    service: Service, source: SourceServer, receiver: WebhookReceiver, output_format: str
) -> None:
    """At -84 dBFS, 16 bits would leave two steps of it."""
    loud = np.random.default_rng(0).normal(size=(70_001, 2)).cumsum(axis=0)
    loud -= np.linspace(loud[0], loud[-1], len(loud))
    quiet = recording(10 ** (-84 / 20) * loud / np.abs(loud).max(), 48_000, "PCM_24")
    source.serve_bytes("/quiet.flac", quiet.file)
    body = webhook_body(service, receiver, audio=source.url("/quiet.flac"), output_format=output_format)
    assert {(stem["sample_rate"], stem["bits"]) for stem in body["stems"]} == {(48_000, 24)}
    total = np.sum([fetched(stem) for stem in body["stems"]], axis=0)
    assert total.shape == quiet.samples.shape
    middle = slice(500, -500)
    assert np.abs(total - quiet.samples)[middle].max() < 3 / 2**23


def test_one_stem(service: Service, audio: str, receiver: WebhookReceiver, short_song: Recording) -> None:
    body = webhook_body(service, receiver, audio=audio, stems=["vocals"])
    assert "instrumental" not in body
    check_stems(body, short_song, names=("vocals",))


def test_metadata_is_returned(service: Service, audio: str, receiver: WebhookReceiver) -> None:
    metadata = {"album": 7, "title": "Grüße \u2028 𝄞", "nested": {"list": [1, None, True, 0.5]}}
    assert webhook_body(service, receiver, audio=audio, metadata=metadata)["metadata"] == metadata


def test_model_by_its_name(service: Service, audio: str, receiver: WebhookReceiver) -> None:
    body = webhook_body(service, receiver, audio=audio, model=MODEL)
    assert (body["status"], body["model"]) == ("success", MODEL)


def test_ensemble(service: Service, audio: str, receiver: WebhookReceiver, short_song: Recording) -> None:
    second = "random.onnx"
    shape = Shape(4096, 2048, 8, growth=3, levels=1, convolutions=1, bottleneck=64)
    install_random_model(service.settings.model.model_dir, second, shape, Metadata("Vocals", 1.0))
    ensemble = {"ensemble": [MODEL, second], "weights": [3, 1]}

    body = webhook_body(service, receiver, audio=audio, model=ensemble)

    assert (body["status"], body["model"]) == ("success", f"avg_wave: {MODEL}*3, {second}*1")
    check_stems(body, short_song)


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"model": "nobody-knows-this.onnx"}, "model_unknown"),
        ({"model": {"ensemble": [MODEL, "nobody-knows-this.onnx"]}}, "model_unknown"),
        ({"stems": ["zither"]}, "stem_unknown"),
    ],
)
def test_unknown_models_and_stems_fail_the_job(
    fields: dict[str, Any], code: str, service: Service, audio: str, receiver: WebhookReceiver, short_song: Recording
) -> None:
    body = webhook_body(service, receiver, audio=audio, metadata={"n": 1}, **fields)
    assert (body["status"], body["metadata"]) == ("failed", {"n": 1})
    assert body["error"] == {"code": code, "retryable": False}
    assert "vocals" not in body
    assert "/" not in body["error_message"]
    generate(service, {"audio": audio, "hook_url": receiver.url})
    check_stems(receiver.wait_for(2, PATIENCE)[1].json, short_song)  # the next job is not affected


def test_signature_follows_the_specification(service: Service, audio: str, receiver: WebhookReceiver) -> None:
    webhook_body(service, receiver, audio=audio)
    (webhook,) = receiver.received
    assert webhook.headers["webhook-signature"].split() == [f"v1,{signature(webhook)}"]


def signature(webhook: Received) -> str:
    """Return the signature of Standard Webhooks 1.0.0: HMAC-SHA256 of id, timestamp and body, joined by full stops."""
    import hashlib
    import hmac

    key = base64.b64decode(WEBHOOK_SECRET.removeprefix("whsec_"))
    head = f"{webhook.headers['webhook-id']}.{webhook.headers['webhook-timestamp']}.".encode()
    return base64.b64encode(hmac.digest(key, head + webhook.body, hashlib.sha256)).decode()


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({"hook_url": "http://127.0.0.1/hook"}, "audio field is required"),
        ({"audio": "http://127.0.0.1/song"}, "hook_url field is required"),
        ({"audio": "ftp://127.0.0.1/song", "hook_url": "http://127.0.0.1/"}, "audio must be a valid HTTP(S) URL"),
        ({"audio": "http://127.0.0.1/song", "hook_url": "there"}, "hook_url must be a valid HTTP(S) URL"),
    ],
)
def test_old_client_receives_the_old_error_messages(service: Service, body: dict[str, str], error: str) -> None:
    answer = requests.post(f"{service.url}/generate", json=body, auth=CREDENTIALS, timeout=PATIENCE)
    assert (answer.status_code, answer.json()["error"]) == (400, error)


def test_client_without_credentials_is_rejected(service: Service, audio: str, receiver: WebhookReceiver) -> None:
    answer = requests.post(f"{service.url}/generate", json={"audio": audio, "hook_url": receiver.url}, timeout=PATIENCE)
    assert (answer.status_code, answer.headers["WWW-Authenticate"].partition(" ")[0]) == (401, "Basic")
