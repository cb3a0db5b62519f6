"""The clients: they request jobs, and repeat each request until they receive a 202."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import requests

from tests.chaos.audit.ledger import Ledger, RequestSent, ResponseReceived
from tests.chaos.poison import POISON_MODEL
from tests.chaos.schedule import POISON, SONGS, PlannedJob
from tests.chaos.system.settings import CREDENTIALS

#: Maximum wait of a client for a response, s.
_TIMEOUT = 8.0
#: Maximum pause of a client before it repeats a request, regardless of Retry-After, s.
_MAX_PAUSE = 2.0
_CLIENTS = 16
#: Maximum length of a recorded refusal, characters.
_MAX_REASON = 300


class Load:
    """The load of concurrent clients."""

    def __init__(self, ledger: Ledger, api_url: str, *, source_url: str, hook_url: str, name: str) -> None:
        """``source_url``: base URL of the songs; ``name``: prefix of the posts."""
        self._ledger = ledger
        self._url = f"{api_url}/generate"
        self._source_url = source_url
        self._hook_url = hook_url
        self._name = name
        self._posts = itertools.count(1)
        self._stopping = threading.Event()

    def run(self, jobs: Sequence[PlannedJob]) -> None:
        """Request each job at its scheduled time; return when all are accepted, or after ``stop``."""
        began = time.monotonic()
        with ThreadPoolExecutor(_CLIENTS, thread_name_prefix="client") as clients:
            for job in jobs:
                if self._stopping.wait(max(0.0, began + job.at - time.monotonic())):
                    break
                clients.submit(self.request_until_accepted, job)

    def stop(self) -> None:
        """Send no further requests."""
        self._stopping.set()

    def request_until_accepted(self, job: PlannedJob) -> None:
        """Repeat the request until it is accepted.

        Each attempt is a separate job: the client cannot know if one without a response was accepted.
        """
        pause = 0.5
        while not self._stopping.is_set():
            response = self._request(job)
            self._ledger.add(response)
            if response.status == requests.codes.accepted:
                return
            self._stopping.wait(pause)
            pause = min(_MAX_PAUSE, pause * 2)

    def _request(self, job: PlannedJob) -> ResponseReceived:
        post = f"{self._name}-{next(self._posts)}"
        self._ledger.add(RequestSent(post=post, song=job.song, priority=job.priority, client=job.client))
        began = time.monotonic()
        try:
            response = self._send(job, post)
        except requests.RequestException as error:  # no response, or a truncated one
            return ResponseReceived(post=post, status=None, seconds=time.monotonic() - began, why=type(error).__name__)
        accepted = response.status_code == requests.codes.accepted
        return ResponseReceived(
            post=post,
            status=response.status_code,
            task_uuid=response.json()["task_uuid"] if accepted else None,
            seconds=time.monotonic() - began,
            retry_after="Retry-After" in response.headers,
            why="" if accepted else response.text[:_MAX_REASON],
        )

    def _send(self, job: PlannedJob, post: str) -> requests.Response:
        body: dict[str, Any] = {
            # The source has every requested song except the missing one.
            "audio": f"{self._source_url}/{next(iter(SONGS)) if job.song == POISON else job.song}",
            "hook_url": self._hook_url,
            "priority": job.priority,
            "metadata": {"post": post},
        }
        if job.song == POISON:
            body["model"] = POISON_MODEL
        headers = {"X-Client-Id": job.client} if job.client else {}
        with requests.Session() as session:
            session.trust_env = False  # a proxy cannot reach this machine's loopback
            return session.post(self._url, json=body, headers=headers, auth=CREDENTIALS, timeout=_TIMEOUT)
