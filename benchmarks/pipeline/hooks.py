"""Who the webhooks are for: takes them in, with the time at which each came."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from benchmarks.download.laboratory import LOOPBACK

_WATCH_SECONDS = 1.0


class Hooks(ThreadingHTTPServer):
    """Listens on a free port of loopback."""

    daemon_threads = True
    #: Many jobs may end at a time.
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__((LOOPBACK, 0), _Handler)
        self._came: dict[str, tuple[float, str]] = {}
        self._changed = threading.Condition()

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.server_address[1]}/hook"

    def take(self, task_uuid: str, status: str) -> None:
        """A webhook has come; a repeat changes nothing."""
        with self._changed:
            self._came.setdefault(task_uuid, (time.monotonic(), status))
            self._changed.notify_all()

    def wait(
        self, tasks: Collection[str], patience: float, watch: Callable[[], None] = lambda: None
    ) -> dict[str, float]:
        """When the webhook of each task came, on the monotonic clock.

        ``watch`` is called while waiting; it raises if nothing can come any more. Raises TimeoutError if not all have
        come within ``patience`` s, RuntimeError if a job has failed.
        """
        deadline = time.monotonic() + patience
        while not self._have_come(tasks, min(_WATCH_SECONDS, patience)):
            watch()
            if time.monotonic() > deadline:
                raise TimeoutError(f"not all webhooks came within {patience:g} s")
        ends = {task: self._came[task] for task in tasks}
        if failed := {task: status for task, (_, status) in ends.items() if status != "success"}:
            raise RuntimeError(f"jobs have not succeeded: {failed}")
        return {task: came for task, (came, _) in ends.items()}

    def _have_come(self, tasks: Collection[str], patience: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: all(task in self._came for task in tasks), patience)


class _Handler(BaseHTTPRequestHandler):
    server: Hooks

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.take(body["task_uuid"], body["status"])
        self.send_response(HTTPStatus.NO_CONTENT)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """The report says what there is to say."""


@contextmanager
def hooks_taken() -> Iterator[Hooks]:
    """A receiver that runs while the block does."""
    hooks = Hooks()
    threading.Thread(target=hooks.serve_forever, name="hooks", daemon=True).start()
    try:
        yield hooks
    finally:
        hooks.shutdown()
        hooks.server_close()
