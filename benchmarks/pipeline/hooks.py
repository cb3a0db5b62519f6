"""Receive webhooks and record the time of each."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from benchmarks.download.laboratory import LOOPBACK

_CHECK_SECONDS = 1.0


class Hooks(ThreadingHTTPServer):
    """A receiver of webhooks on a free port of loopback."""

    daemon_threads = True
    #: Many jobs may end at the same time.
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__((LOOPBACK, 0), _Handler)
        self._arrivals: dict[str, tuple[float, str]] = {}
        self._changed = threading.Condition()

    @property
    def url(self) -> str:
        """The URL for webhooks."""
        return f"http://{LOOPBACK}:{self.server_address[1]}/hook"

    def record(self, task_uuid: str, status: str) -> None:
        """Record a webhook; a repetition changes nothing."""
        with self._changed:
            self._arrivals.setdefault(task_uuid, (time.monotonic(), status))
            self._changed.notify_all()

    def wait(
        self, tasks: Collection[str], timeout: float, check: Callable[[], None] = lambda: None
    ) -> dict[str, float]:
        """Wait for the webhooks of all tasks; return their times on the monotonic clock.

        ``check`` is called during the wait; it raises if no further webhook can arrive. Raises TimeoutError if webhooks
        are missing after ``timeout`` s, RuntimeError if a job has failed.
        """
        deadline = time.monotonic() + timeout
        with self._changed:
            while not self._changed.wait_for(lambda: self._arrivals.keys() >= set(tasks), min(_CHECK_SECONDS, timeout)):
                check()
                if time.monotonic() > deadline:
                    raise TimeoutError(f"not all webhooks arrived within {timeout:g} s")
        arrivals = {task: self._arrivals[task] for task in tasks}
        if failed := {task: status for task, (_, status) in arrivals.items() if status != "success"}:
            raise RuntimeError(f"jobs have not succeeded: {failed}")
        return {task: at for task, (at, _) in arrivals.items()}


class _Handler(BaseHTTPRequestHandler):
    server: Hooks

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.record(body["task_uuid"], body["status"])
        self.send_response(HTTPStatus.NO_CONTENT)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Suppress the log of requests."""


@contextmanager
def hook_server() -> Iterator[Hooks]:
    """Run a receiver of webhooks during the block."""
    hooks = Hooks()
    threading.Thread(target=hooks.serve_forever, name="hooks", daemon=True).start()
    try:
        yield hooks
    finally:
        hooks.shutdown()
        hooks.server_close()
