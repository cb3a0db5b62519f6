"""The store of the outcomes: one per task, decided once and kept beside the finished stems.

Results are delivered repeatedly, uploaders die at any step, and two uploaders may work on the same task. Therefore the
outcome is stored under a key of the task before it is delivered to the client, by a conditional write that only the
first writer wins. From then on every try, by any uploader, sends these bytes.
"""

from __future__ import annotations

from pydantic import ValidationError

from pipeline.errors import ErrorCode, PermanentError
from pipeline.messages import ReadState, SeparationResult, WireModel
from pipeline.storage.object_keys import outcome_key, staged_prefix, stem_prefix
from pipeline.storage.protocol import ObjectStore


class StagedStem(WireModel):
    """An encoded stem that waits for the outcome. Only the stems of the decided outcome are copied to final keys."""

    staged: str
    """Its key while it waits."""
    key: str
    """Its final key."""
    content_type: str


class OutcomeRecord(WireModel):
    """The outcome of a task, as it is stored and delivered."""

    state: ReadState
    body: str
    """The webhook's body, byte for byte: it is ASCII."""
    message: str | None = None
    """The reason of a failure."""
    stems: tuple[StagedStem, ...] = ()


class OutcomeStore:
    """The outcomes in ``store``. Thread-safe; safe for any number of uploaders.

    Its methods raise InfrastructureError while the store is unreachable, and PermanentError (code ``internal``) for a
    damaged record.
    """

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def find(self, result: SeparationResult) -> OutcomeRecord | None:
        """Return the outcome of the result's task, or None if it is not decided yet."""
        try:
            content = self._store.read(outcome_key(result.task_uuid, result.task.run))
        except PermanentError as error:
            if error.code is ErrorCode.OBJECT_MISSING:
                return None
            raise
        return _parse(content, result)

    def decide(self, result: SeparationResult, record: OutcomeRecord) -> OutcomeRecord:
        """Propose ``record`` as the outcome of the result's task, and return the outcome that was stored first."""
        key = outcome_key(result.task_uuid, result.task.run)
        stored = self._store.put_new(key, record.model_dump_json().encode(), content_type="application/json")
        return _parse(stored, result)


def _parse(content: bytes, result: SeparationResult) -> OutcomeRecord:
    """Return the stored record. A record that would copy the stems of another task is damaged as well."""
    staged, final = staged_prefix(result.task_uuid), stem_prefix(result.task_uuid)
    try:
        record = OutcomeRecord.model_validate_json(content)
    except ValidationError:
        raise _damaged() from None
    if not all(stem.staged.startswith(staged) and stem.key.startswith(final) for stem in record.stems):
        raise _damaged()
    return record


def _damaged() -> PermanentError:
    return PermanentError("the stored outcome of the task is damaged", code=ErrorCode.INTERNAL)
