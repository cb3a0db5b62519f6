"""The clients: they ask for jobs, and ask again until they get a 202."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import requests

from tests.chaos.ledger import Answered, Asked, Ledger
from tests.chaos.poison import POISON_MODEL
from tests.chaos.schedule import POISON, SONGS, PlannedJob
from tests.chaos.settings import CREDENTIALS

#: How long a client waits for an answer, s.
_TIMEOUT = 8.0
#: The longest that it waits before it asks again, whatever Retry-After says, s.
_PAUSE = 2.0
_CLIENTS = 16
#: How much of a refusal is kept, characters.
_KEPT = 300


class Load:
    """Many clients at once."""

    def __init__(self, ledger: Ledger, api_url: str, *, source_url: str, hook_url: str, name: str) -> None:
        """``source_url``: where songs are found by their names; ``name``: what the posts are named by."""
        self._ledger = ledger
        self._url = f"{api_url}/generate"
        self._source_url = source_url
        self._hook_url = hook_url
        self._name = name
        self._posts = itertools.count(1)
        self._stopping = threading.Event()

    def run(self, jobs: Sequence[PlannedJob]) -> None:
        """Ask for each job at its time; returns when all of them were accepted, or it was told to stop."""
        began = time.monotonic()
        with ThreadPoolExecutor(_CLIENTS, thread_name_prefix="client") as clients:
            for job in jobs:
                if self._stopping.wait(max(0.0, began + job.at - time.monotonic())):
                    break
                clients.submit(self.ask_until_accepted, job)

    def stop(self) -> None:
        """Ask for nothing more."""
        self._stopping.set()

    def ask_until_accepted(self, job: PlannedJob) -> None:
        """Each try is a job of its own: whether one without an answer was accepted, the client cannot know."""
        pause = 0.5
        while not self._stopping.is_set():
            answer = self._ask(job)
            self._ledger.add(answer)
            if answer.status == requests.codes.accepted:
                return
            self._stopping.wait(pause)
            pause = min(_PAUSE, pause * 2)

    def _ask(self, job: PlannedJob) -> Answered:
        post = f"{self._name}-{next(self._posts)}"
        self._ledger.add(Asked(post=post, song=job.song, priority=job.priority, client=job.client))
        began = time.monotonic()
        try:
            answer = self._send(job, post)
        except requests.RequestException as error:  # nothing, or half an answer
            return Answered(post=post, status=None, seconds=time.monotonic() - began, why=type(error).__name__)
        accepted = answer.status_code == requests.codes.accepted
        return Answered(
            post=post,
            status=answer.status_code,
            task_uuid=answer.json()["task_uuid"] if accepted else None,
            seconds=time.monotonic() - began,
            retry_after="Retry-After" in answer.headers,
            why="" if accepted else answer.text[:_KEPT],
        )

    def _send(self, job: PlannedJob, post: str) -> requests.Response:
        body: dict[str, Any] = {
            # Every song that is asked for is to be found, but the one that is missing.
            "audio": f"{self._source_url}/{next(iter(SONGS)) if job.song == POISON else job.song}",
            "hook_url": self._hook_url,
            "priority": job.priority,
            "metadata": {"post": post},
        }
        if job.song == POISON:
            body["model"] = POISON_MODEL
        headers = {"X-Client-Id": job.client} if job.client else {}
        with requests.Session() as session:
            session.trust_env = False  # a proxy has no way to this machine's loopback
            return session.post(self._url, json=body, headers=headers, auth=CREDENTIALS, timeout=_TIMEOUT)
