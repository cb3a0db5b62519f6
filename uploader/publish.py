"""One stem's way from the hand-off store to the client's link."""

from __future__ import annotations

import hashlib
from pathlib import Path
from uuid import UUID

from pipeline.errors import ErrorCode, PermanentError, PipelineError
from pipeline.files import local_errors
from pipeline.messages import OutputFormat, SeparationResult, StemFile
from pipeline.storage.keys import stem_key
from pipeline.storage.protocol import ObjectStore
from pipeline.telemetry import get_logger
from pipeline.workdir import WorkDir
from uploader.encode import CONTENT_TYPES, EncodedFile, encode
from uploader.payload import PublishedStem

log = get_logger(__name__)


class StemPublisher:
    """Encodes stems and puts them into the store; its working files are gone afterwards."""

    def __init__(self, handoff: ObjectStore, store: ObjectStore, workdir: WorkDir) -> None:
        self._handoff = handoff
        self._store = store
        self._workdir = workdir

    def publish(self, task_uuid: UUID, stem: StemFile, output_format: OutputFormat, gain: float) -> PublishedStem:
        """Store the stem under its key; doing it twice overwrites the object with itself.

        A stem that has left the hand-off because an earlier run of this very step got through is taken as that run
        stored it. Raises PermanentError (code ``handoff_missing``) if it is neither here nor there.
        """
        key = stem_key(task_uuid, stem.name, output_format)
        with local_errors(), self._workdir.job() as folder:
            raw, finished = folder / "raw.wav", folder / f"stem.{output_format.value}"
            if self._fetch(stem, raw):
                file = encode(raw, finished, output_format, gain)
                self._store.put(key, finished, content_type=CONTENT_TYPES[output_format])
            else:
                file = self._published_before(stem, key, finished)
        return PublishedStem(
            name=stem.name,
            url=self._store.url(key),
            sha256=file.sha256,
            bytes=file.bytes,
            duration=stem.duration,
            sample_rate=stem.sample_rate,
            channels=stem.channels,
            format=output_format.value,
        )

    def discard_handoff(self, result: SeparationResult) -> None:
        """Delete the job's stems from the hand-off. Failing that is logged: the job is done all the same."""
        for stem in result.stems:
            try:
                self._handoff.delete(stem.key)
            except PipelineError as error:
                log.warning("handoff_not_deleted", key=stem.key, error=error.message)

    def _fetch(self, stem: StemFile, target: Path) -> bool:
        """Whether the hand-off holds the very bytes that the processor stored; they are in ``target`` then."""
        try:
            self._handoff.get(stem.key, target)
        except PermanentError as error:
            if error.code is ErrorCode.OBJECT_MISSING:
                return False
            raise
        return _sha256(target) == stem.sha256

    def _published_before(self, stem: StemFile, key: str, target: Path) -> EncodedFile:
        try:
            self._store.get(key, target)
        except PermanentError as error:
            raise PermanentError(
                f"the separated stem {stem.name} was lost or damaged on its way to the storage",
                code=ErrorCode.HANDOFF_MISSING,
            ) from error
        log.info("stem_published_before", key=key)
        return EncodedFile(target.stat().st_size, _sha256(target))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
