"""Follows what the services report, so that tests can act in the midst of a job instead of sleeping."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

from devstack.stack import Plan
from pipeline.messages import TaskEvent, TaskState

TERMINAL = {TaskState.SUCCESS, TaskState.FAILED, TaskState.CANCELLED}

#: Longest wait for anything, s: a model is loaded in some seconds, and the machine may be busy.
PATIENCE = 90.0


class Watcher:
    """Reads events and dead letters from their beginning."""

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

    def wait_for(self, task_uuid: str, what: Callable[[TaskEvent], bool]) -> TaskEvent:
        """The first event of the task that `what` says yes to, which may have been long ago."""
        with self._changed:
            found = self._changed.wait_for(lambda: next(filter(what, self._of(task_uuid)), None), PATIENCE)
            assert found, f"of {task_uuid} no such event came, but {[e.status.value for e in self._of(task_uuid)]}"
            return found

    def wait_for_state(self, task_uuid: str, state: TaskState) -> TaskEvent:
        return self.wait_for(task_uuid, lambda event: event.status is state)

    def wait_for_separation(self, task_uuid: str) -> None:
        """Until the model is at work on the song, not yet at its end."""
        self.wait_for(task_uuid, lambda event: event.status is TaskState.SEPARATING and event.progress > 0)

    def outcomes(self, task_uuid: str) -> list[TaskState]:
        """Every terminal state that was reported so far, at least one."""
        self.wait_for(task_uuid, lambda event: event.status in TERMINAL)
        with self._changed:
            return [event.status for event in self._of(task_uuid) if event.status in TERMINAL]

    def wait_for_dead_letter(self, task_uuid: str) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: task_uuid in self._dead, PATIENCE), f"{task_uuid} is no dead letter"

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
