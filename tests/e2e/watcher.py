"""Follow the events of the services, so that tests can act during a job without sleeping."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

from devstack.stack import Plan
from pipeline.messages import ReadState, TaskEvent, TaskState

TERMINAL = {TaskState.SUCCESS, TaskState.FAILED, TaskState.CANCELLED}

#: Longest wait for any event, s: loading a model takes seconds, and the machine may be busy.
PATIENCE = 90.0


class Watcher:
    """A reader of all events and dead letters since the start of the services."""

    def __init__(self, plan: Plan) -> None:
        self._changed = threading.Condition()
        self._events: list[TaskEvent] = []
        self._dead: list[str] = []
        self._log = plan.log_file("event-reader").open("wb")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.e2e.event_reader"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=dict(plan.environment),
            cwd=plan.folder,
        )
        self._thread = threading.Thread(target=self._follow, name="watcher")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._thread.join()
        self._process.wait()
        self._log.close()

    def wait_for(self, task_uuid: str, matches: Callable[[TaskEvent], bool]) -> TaskEvent:
        """Return the first event of the task that matches, past or future."""
        with self._changed:
            found = self._changed.wait_for(lambda: next(filter(matches, self._of(task_uuid)), None), PATIENCE)
            assert found, f"{task_uuid} has no such event, but {[e.status for e in self._of(task_uuid)]}"
            return found

    def wait_for_state(self, task_uuid: str, state: TaskState) -> TaskEvent:
        return self.wait_for(task_uuid, lambda event: event.status is state)

    def wait_for_separation(self, task_uuid: str) -> None:
        """Wait until the model separates the song."""
        self.wait_for(task_uuid, lambda event: event.status is TaskState.SEPARATING and event.progress > 0)

    def outcomes(self, task_uuid: str) -> list[ReadState]:
        """Return the terminal states that were reported so far, at least one."""
        self.wait_for(task_uuid, lambda event: event.status in TERMINAL)
        with self._changed:
            return [event.status for event in self._of(task_uuid) if event.status in TERMINAL]

    def wait_for_dead_letter(self, task_uuid: str) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: task_uuid in self._dead, PATIENCE), (
                f"{task_uuid} is not a dead letter"
            )

    @property
    def dead_letters(self) -> list[str]:
        """The tasks whose messages have become dead letters."""
        with self._changed:
            return list(self._dead)

    def _of(self, task_uuid: str) -> list[TaskEvent]:
        return [event for event in self._events if str(event.task_uuid) == task_uuid]

    def _follow(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                report = json.loads(line)
                with self._changed:
                    if "dead" in report:
                        self._dead.append(report["dead"])
                    else:
                        self._events.append(TaskEvent.model_validate(report))
                    self._changed.notify_all()
