"""Tests of source and receiver over real connections."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import requests
from standardwebhooks import Webhook

from tests.chaos.audit.ledger import Ledger, WebhookReceived
from tests.chaos.system.counterparts import POISON_PATH, WEBHOOK_SECRET, Receiver, Source

BODY = json.dumps({"task_uuid": "t", "status": "success"}).encode()


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger(tmp_path / "ledger.jsonl") as ledger:
        yield ledger


@pytest.fixture
def receiver(ledger: Ledger) -> Iterator[Receiver]:
    with Receiver(ledger) as receiver:
        yield receiver


def post(receiver: Receiver, secret: str = WEBHOOK_SECRET, body: bytes = BODY) -> int:
    now = datetime.now(UTC)
    headers = {
        "webhook-id": "msg",
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": Webhook(secret).sign("msg", now, BODY.decode()),
    }
    return requests.post(f"http://127.0.0.1:{receiver.port}/hook", data=body, headers=headers, timeout=10).status_code


def recorded(ledger: Ledger) -> list[tuple[int, bool]]:
    return [(entry.status, entry.signed) for entry in ledger.entries if isinstance(entry, WebhookReceived)]


def test_webhook_is_accepted_and_recorded(receiver: Receiver, ledger: Ledger) -> None:
    assert post(receiver) == 200
    (entry,) = ledger.entries
    assert isinstance(entry, WebhookReceived)
    assert (entry.task_uuid, entry.webhook_id, entry.body) == ("t", "msg", BODY.decode())
    assert recorded(ledger) == [(200, True)]


def test_unavailable_receiver_records_rejected_webhooks(receiver: Receiver, ledger: Ledger) -> None:
    receiver.unavailable.set()
    assert post(receiver) == 503
    receiver.unavailable.clear()
    assert post(receiver) == 200
    assert recorded(ledger) == [(503, True), (200, True)]


def test_wrong_signature_is_recorded(receiver: Receiver, ledger: Ledger) -> None:
    post(receiver, secret="whsec_" + "bm90IHRoZSBzZWNyZXQgdGhhdCB0aGV5IHNoYXJl")
    post(receiver, body=BODY.replace(b"success", b"failed!"))
    assert recorded(ledger) == [(200, False), (200, False)]


def test_truncated_webhook_is_ignored(receiver: Receiver, ledger: Ledger) -> None:
    with socket.create_connection(("127.0.0.1", receiver.port), timeout=10) as connection:
        connection.sendall(b"POST /hook HTTP/1.1\r\nContent-Length: 100\r\n\r\n" + BODY)
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(1) == b""
    assert recorded(ledger) == []


def test_source_serves_songs_by_name() -> None:
    with Source({"one": b"la la"}) as source:
        url = f"http://127.0.0.1:{source.port}"
        assert requests.get(f"{url}/one", timeout=10).content == b"la la"
        assert requests.get(f"{url}/missing", timeout=10).status_code == 404
        source.unavailable.set()
        assert requests.get(f"{url}/one", timeout=10).status_code == 503


def test_source_reports_clients_that_request_poison() -> None:
    client_ports: list[int] = []
    with Source({}) as source, socket.create_connection(("127.0.0.1", source.port), timeout=10) as connection:
        source.on_poison = client_ports.append
        connection.sendall(f"GET {POISON_PATH}model HTTP/1.1\r\n\r\n".encode())
        assert connection.recv(12) == b"HTTP/1.0 404"
        assert client_ports == [connection.getsockname()[1]]
