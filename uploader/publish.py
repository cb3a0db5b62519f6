"""Publishes stems: from the hand-off store to the links of the client.

A stem is encoded and staged under a key that derives from its content, and copied to its final key once the outcome of
the task is decided. A GPU may not produce the same bits twice, so a slower uploader may have another result of the same
task: it never replaces a stem whose hash was delivered to the client.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass

from pipeline.errors import ErrorCode, PermanentError, PipelineError
from pipeline.files import file_sha256, local_errors
from pipeline.messages import SeparationResult, StemFile
from pipeline.service.logs import get_logger
from pipeline.service.workdir import WorkDir
from pipeline.storage.object_keys import handoff_key, handoff_prefix, staged_key, stem_key
from pipeline.storage.protocol import ObjectStore
from uploader.encode import CONTENT_TYPES, encode, stem_bits
from uploader.outcome_store import StagedStem
from uploader.webhook_payload import PublishedStem

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class EncodedStem:
    """An encoded stem in the store, under its staging key."""

    published: PublishedStem
    """Its entry in the webhook's body."""
    staged: StagedStem


class StemPublisher:
    """Encodes stems, stages them and publishes them; deletes its working files. Thread-safe."""

    def __init__(self, handoff: ObjectStore, store: ObjectStore, workdir: WorkDir, *, dither: bool = False) -> None:
        """``dither``: whether stems of 16 bits are dithered."""
        self._handoff = handoff
        self._store = store
        self._workdir = workdir
        self._dither = dither

    def require_complete(self, result: SeparationResult) -> None:
        """Raise PermanentError (code ``handoff_missing``) unless the hand-off has every stem in its full length."""
        for stem in result.stems:
            found = self._handoff.stat(_handoff_key(result, stem))
            if found is None or found.bytes != stem.bytes:
                raise _lost(stem)

    def stage(self, result: SeparationResult, stem: StemFile, gain: float) -> EncodedStem:
        """Encode the stem, multiplied by ``gain``, and store it; a repeat overwrites the object with the same bytes.

        Raises PermanentError (code ``handoff_missing``) if the hand-off does not have the bytes that the processor
        stored there.
        """
        output_format = result.task.output_format
        key = stem_key(result.task_uuid, stem.name, output_format)
        staged = StagedStem(
            staged=self._staged_key(result, stem), key=key, content_type=CONTENT_TYPES[output_format.extension]
        )
        with local_errors(), self._workdir.job() as folder:
            raw, encoded = folder / "raw.wav", folder / f"stem.{output_format.extension}"
            try:
                self._handoff.get(_handoff_key(result, stem), raw)
            except PermanentError as error:
                if error.code is ErrorCode.OBJECT_MISSING:
                    raise _lost(stem) from error
                raise
            if file_sha256(raw) != stem.sha256:
                raise _lost(stem)
            bits, seed = stem_bits(result), f"{result.task_uuid} {stem.name}"
            dither = seed if self._dither else None
            file = encode(raw, encoded, output_format.extension, bits=bits, gain=gain, dither=dither)
            self._store.put(staged.staged, encoded, content_type=staged.content_type)
        published = PublishedStem(
            name=stem.name,
            url=self._store.url(key),
            sha256=file.sha256,
            bytes=file.bytes,
            duration=stem.duration,
            sample_rate=stem.sample_rate,
            channels=stem.channels,
            bits=bits,
            format=output_format.extension,
        )
        return EncodedStem(published, staged)

    def publish(self, stems: Iterable[StagedStem]) -> None:
        """Move the stems of the decided outcome to their final keys, unless that is done already; may be repeated."""
        for stem in stems:
            try:
                self._store.copy_from(self._store, stem.staged, stem.key, content_type=stem.content_type)
            except PermanentError as error:
                if error.code is not ErrorCode.OBJECT_MISSING:
                    raise
                # Another try has published the stem and deleted the staged one.
                if self._store.stat(stem.key) is None:
                    # The published stem was deleted later. The outcome stays as it was decided, and is delivered.
                    log.warning("stem_missing", key=stem.key)
            else:
                self._store.delete(stem.staged)

    def discard(self, result: SeparationResult, published: Iterable[StagedStem] = ()) -> None:
        """Delete the remains of a job whose outcome is decided; log a failure to do so, and go on.

        These are its stems in the hand-off, and the staged stems that are not among ``published``. Keys that the
        message names and that are not the task's own are ignored.
        """
        task = result.task
        own = handoff_prefix(task.task_uuid, task.run)
        handed_off = {key for key in task.left_behind if key.startswith(own)}
        handed_off.update(_handoff_key(result, stem) for stem in result.stems)
        kept = {stem.staged for stem in published}
        staged = [self._staged_key(result, stem) for stem in result.stems]
        objects = [(self._handoff, key) for key in handed_off]
        objects += [(self._store, key) for key in staged if key not in kept]
        for store, key in objects:
            try:
                store.delete(key)
            except PipelineError as error:
                log.warning("stem_delete_failed", key=key, error=error.message)

    def _staged_key(self, result: SeparationResult, stem: StemFile) -> str:
        """Derive the staging key from everything that determines the encoded content, without encoding the stem."""
        task = result.task
        stems = [(stem.name, stem.sha256) for stem in result.stems]  # the gain depends on all of them
        content = json.dumps([task.run, task.separations, stems, *(["dither"] if self._dither else [])])
        digest = hashlib.sha256(content.encode()).hexdigest()
        return staged_key(result.task_uuid, stem.name, digest, task.output_format)


def _handoff_key(result: SeparationResult, stem: StemFile) -> str:
    """Derive the key of a stem in the hand-off. The one in the message is not used: it could name another task's."""
    return handoff_key(result.task_uuid, result.task.run, stem.name, stem.sha256)


def _lost(stem: StemFile) -> PermanentError:
    log.warning("stem_lost", stem=stem.name)
    return PermanentError(
        f"the separated stem {stem.name} was lost or damaged on its way to the storage", code=ErrorCode.HANDOFF_MISSING
    )
