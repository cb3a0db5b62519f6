"""The receivers of the tutorial accept what the project's own sender signs, and nothing else."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from typing import IO

import pytest
import requests
from standardwebhooks import Webhook

from pipeline.cancellation import CancelToken
from pipeline.download import UrlGuard
from pipeline.errors import TransientError
from tests.docs.pages import MarkdownPage
from uploader.webhook import WebhookSender

PAGE = MarkdownPage(Path("docs/tutorials/receive-webhooks.md"))
SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
OTHER_SECRET = "whsec_" + base64.b64encode(bytes(32)).decode()
STEM = {"name": "vocals", "url": "https://example.com/vocals.wav"}
SUCCESS = json.dumps({"task_uuid": "task-1", "status": "success", "stems": [STEM]}).encode()
FAILED = json.dumps({"task_uuid": "task-2", "status": "failed", "error_message": "grün: the source is gone"}).encode()


@dataclass
class Receiver:
    """A running program of the tutorial."""

    url: str
    lines: Queue[str]

    def line(self) -> str:
        return self.lines.get(timeout=20)


def program(name: str) -> str:
    """Return the code of the tutorial under this file name."""
    (code,) = (fence.code for fence in PAGE.fences if f'title="{name}"' in fence.info)
    return code


def interpreter(name: str) -> str:
    """Return the program that runs the file. Skips the test where node is not installed."""
    if name.endswith(".py"):
        return sys.executable
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed: the receiver in JavaScript is NOT tested")
    return node


def read_lines(output: IO[str], lines: Queue[str]) -> None:
    for line in output:
        lines.put(line.rstrip("\n"))


@pytest.fixture(params=["receiver.py", "receiver.mjs"])
def receiver(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Receiver]:
    name = str(request.param)
    path = tmp_path / name
    path.write_text(program(name), encoding="utf-8")
    environment = {**os.environ, "PORT": "0", "WEBHOOK_SECRET": f"{OTHER_SECRET} {SECRET}", "PYTHONUTF8": "1"}
    process = subprocess.Popen(
        [interpreter(name), str(path)], env=environment, stdout=subprocess.PIPE, text=True, encoding="utf-8"
    )
    assert process.stdout is not None
    lines: Queue[str] = Queue()
    reader = Thread(target=read_lines, args=(process.stdout, lines))
    reader.start()
    try:
        port = lines.get(timeout=30).removeprefix("listening on port ")
        yield Receiver(f"http://127.0.0.1:{port}/hook", lines)
    finally:
        process.kill()
        process.wait()
        reader.join()
        process.stdout.close()


def send(url: str, webhook_id: str, body: bytes, *secrets: str) -> None:
    WebhookSender(UrlGuard(allow_private=True), secrets, timeout=20.0).deliver(url, webhook_id, body, CancelToken())


def test_signed_webhooks_are_processed_once(receiver: Receiver) -> None:
    send(receiver.url, "msg_1", SUCCESS, SECRET)
    send(receiver.url, "msg_1", SUCCESS, SECRET)
    send(receiver.url, "msg_2", FAILED, SECRET)
    assert receiver.line() == "task-1 vocals https://example.com/vocals.wav"
    assert receiver.line() == "task-2 failed grün: the source is gone"


def test_rotated_secrets_are_accepted(receiver: Receiver) -> None:
    stranger = "whsec_" + base64.b64encode(bytes([7] * 32)).decode()
    send(receiver.url, "msg_1", SUCCESS, stranger, SECRET)
    send(receiver.url, "msg_2", SUCCESS, OTHER_SECRET)
    assert [receiver.line(), receiver.line()] == ["task-1 vocals https://example.com/vocals.wav"] * 2


def test_forged_webhooks_are_refused(receiver: Receiver) -> None:
    stranger = "whsec_" + base64.b64encode(bytes([7] * 32)).decode()
    for secrets in ([stranger], []):
        with pytest.raises(TransientError, match="401"):
            send(receiver.url, "msg_1", SUCCESS, *secrets)
    with pytest.raises(Empty):
        receiver.lines.get(timeout=0.2)


@pytest.mark.parametrize("change", ["body", "webhook-id", "webhook-timestamp", "old"])
def test_changed_and_old_webhooks_are_refused(receiver: Receiver, change: str) -> None:
    sent_at = int(time.time()) - (3600 if change == "old" else 0)
    headers = {
        "webhook-id": "msg_1",
        "webhook-timestamp": str(sent_at),
        "webhook-signature": Webhook(SECRET).sign("msg_1", datetime.fromtimestamp(sent_at, UTC), SUCCESS.decode()),
    }
    body = SUCCESS
    if change == "body":
        body = SUCCESS.replace(b"vocals.wav", b"forged.wav")
    elif change != "old":
        headers[change] = {"webhook-id": "msg_2", "webhook-timestamp": str(sent_at - 1)}[change]
    with requests.Session() as session:
        session.trust_env = False
        answer = session.post(receiver.url, data=body, headers=headers, timeout=20)
    assert answer.status_code == 401
    assert receiver.lines.empty()
