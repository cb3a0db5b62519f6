"""The stems' way from the hand-off store to the client's links.

A stem is encoded and stored under a key that belongs to its very content, and copied to its final key once the task's
outcome is decided. So a slower uploader with another result of the same task, as a GPU may not give the same bits
twice, never replaces a stem that the client was told the hash of.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import ErrorCode, PermanentError, PipelineError
from pipeline.files import file_sha256, local_errors
from pipeline.messages import SeparationResult, StemFile
from pipeline.service.logs import get_logger
from pipeline.service.workdir import WorkDir
from pipeline.storage.object_keys import staged_key, stem_key
from pipeline.storage.protocol import ObjectStore
from uploader.encode import CONTENT_TYPES, encode
from uploader.outcome_store import StagedStem
from uploader.webhook_payload import PublishedStem

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class FinishedStem:
    """An encoded stem in the store, as the client will be told of it."""

    told: PublishedStem
    staged: StagedStem


class StemPublisher:
    """Encodes stems and puts them into the store; its working files are gone afterwards. Thread-safe."""

    def __init__(self, handoff: ObjectStore, store: ObjectStore, workdir: WorkDir) -> None:
        self._handoff = handoff
        self._store = store
        self._workdir = workdir

    def require_complete(self, result: SeparationResult) -> None:
        """Raise PermanentError (code ``handoff_missing``) unless the hand-off has every stem in its full length."""
        for stem in result.stems:
            found = self._handoff.stat(stem.key)
            if found is None or found.bytes != stem.bytes:
                raise _lost(stem)

    def stage(self, result: SeparationResult, stem: StemFile, gain: float) -> FinishedStem:
        """Encode the stem, times ``gain``, and store it; doing it twice overwrites the object with itself.

        Raises PermanentError (code ``handoff_missing``) if the hand-off does not have the bytes that the processor
        stored there.
        """
        output_format = result.task.output_format
        key = stem_key(result.task_uuid, stem.name, output_format)
        staged = StagedStem(staged=_staged_key(result, stem), key=key, content_type=CONTENT_TYPES[output_format])
        with local_errors(), self._workdir.job() as folder:
            raw, finished = folder / "raw.wav", folder / f"stem.{output_format.value}"
            self._fetch(stem, raw)
            file = encode(raw, finished, output_format, gain)
            self._store.put(staged.staged, finished, content_type=staged.content_type)
        told = PublishedStem(
            name=stem.name,
            url=self._store.url(key),
            sha256=file.sha256,
            bytes=file.bytes,
            duration=stem.duration,
            sample_rate=stem.sample_rate,
            channels=stem.channels,
            format=output_format.value,
        )
        return FinishedStem(told, staged)

    def place(self, stems: Iterable[StagedStem]) -> None:
        """Put the stems of the decided outcome under their final keys, unless that has been done; may be repeated."""
        for stem in stems:
            if self._was_staged(stem):
                self._store.delete(stem.staged)

    def discard(self, result: SeparationResult, placed: Iterable[StagedStem] = ()) -> None:
        """Delete what the job leaves once its outcome is decided: its stems in the hand-off, and staged ones that are
        not among ``placed``. Failing that is logged: the job is done all the same.
        """
        done = {stem.staged for stem in placed}
        for key in {*result.task.left_behind, *(stem.key for stem in result.stems)}:
            self._discard(self._handoff, key)
        for stem in result.stems:
            if (staged := _staged_key(result, stem)) not in done:
                self._discard(self._store, staged)

    def _fetch(self, stem: StemFile, target: Path) -> None:
        try:
            self._handoff.get(stem.key, target)
        except PermanentError as error:
            if error.code is ErrorCode.OBJECT_MISSING:
                raise _lost(stem) from error
            raise
        if file_sha256(target) != stem.sha256:
            raise _lost(stem)

    def _was_staged(self, stem: StagedStem) -> bool:
        """Copy the stem to its final key; False if somebody has done so and tidied up."""
        try:
            self._store.copy_from(self._store, stem.staged, stem.key, content_type=stem.content_type)
        except PermanentError as error:
            if error.code is not ErrorCode.OBJECT_MISSING:
                raise
            if self._store.stat(stem.key) is None:
                # It was there, since then it was deleted: the outcome is what it is, and is told.
                log.warning("stem_gone", key=stem.key)
            return False
        return True

    def _discard(self, store: ObjectStore, key: str) -> None:
        try:
            store.delete(key)
        except PipelineError as error:
            log.warning("stem_not_discarded", key=key, error=error.message)


def _staged_key(result: SeparationResult, stem: StemFile) -> str:
    """Of every content another one. What the content depends on is known before it is encoded."""
    task = result.task
    stems = [(stem.name, stem.sha256) for stem in result.stems]  # the gain depends on all of them
    content = json.dumps([task.run, task.separations, stems])
    digest = hashlib.sha256(content.encode()).hexdigest()
    return staged_key(result.task_uuid, stem.name, digest, task.output_format)


def _lost(stem: StemFile) -> PermanentError:
    log.warning("stem_lost", key=stem.key)
    return PermanentError(
        f"the separated stem {stem.name} was lost or damaged on its way to the storage", code=ErrorCode.HANDOFF_MISSING
    )
