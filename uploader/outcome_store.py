"""The one outcome of each task, decided once and kept beside the finished stems.

Results come twice, uploaders die at any line, and two of them may work on the same task. So before anybody is told,
what is to be told is stored under a key of the task, where only the first content is taken. From then on that is the
outcome: its bytes are sent at every try, whoever tries.
"""

from __future__ import annotations

from pydantic import ValidationError

from pipeline.errors import ErrorCode, PermanentError
from pipeline.messages import SeparationResult, TaskState, WireModel
from pipeline.storage.object_keys import outcome_key
from pipeline.storage.protocol import ObjectStore


class StagedStem(WireModel):
    """A finished stem that waits for the outcome: only the stems that the client is told of get their final keys."""

    staged: str
    """Its key until then."""
    key: str
    """Its key from then on."""
    content_type: str


class OutcomeRecord(WireModel):
    """How a task ended, as it is told."""

    state: TaskState
    body: str
    """The webhook's body, byte for byte: it is ASCII."""
    message: str | None = None
    """Why the task failed."""
    stems: tuple[StagedStem, ...] = ()


class OutcomeStore:
    """The outcomes in ``store``. Thread-safe; safe for any number of uploaders.

    Its methods raise InfrastructureError while the store cannot be reached, and PermanentError (code ``internal``) for
    a record that somebody has damaged.
    """

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def find(self, result: SeparationResult) -> OutcomeRecord | None:
        """The outcome of the result's task, if it has been decided."""
        try:
            content = self._store.read(_key(result))
        except PermanentError as error:
            if error.code is ErrorCode.OBJECT_MISSING:
                return None
            raise
        return _parsed(content)

    def decide(self, result: SeparationResult, record: OutcomeRecord) -> OutcomeRecord:
        """The outcome of the result's task from now on: ``record``, unless another one was faster."""
        content = record.model_dump_json().encode()
        return _parsed(self._store.put_new(_key(result), content, content_type="application/json"))


def _key(result: SeparationResult) -> str:
    return outcome_key(result.task_uuid, result.task.run)


def _parsed(content: bytes) -> OutcomeRecord:
    try:
        return OutcomeRecord.model_validate_json(content)
    except ValidationError:
        raise PermanentError("the stored outcome of the task is damaged", code=ErrorCode.INTERNAL) from None
