"""What is left of an interrupted download, believed only as far as it proves itself."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from pipeline.download.checksum import Checksum
from pipeline.download.parallel.journal import Entry, Identity, Journal
from pipeline.download.parallel.range_allocator import ByteRange
from pipeline.download.part_file import ScatteredFile, part_path
from pipeline.download.validators import Validator
from pipeline.service.logs import get_logger

log = get_logger(__name__)

_BLOCK = 1024**2


def journal_path(target: Path) -> Path:
    """Where the journal lies while the file is not complete."""
    return target.with_name(f"{target.name}.journal")


class ResumeState:
    """The part and the journal of one target; without ``resume``, there is no journal and nothing outlives the call.

    To be closed, which removes both unless ``keep`` is set.
    """

    def __init__(self, target: Path, url: str, checksum: Checksum | None, *, resume: bool) -> None:
        self._target = target
        self._url = hashlib.sha256(url.encode()).hexdigest()
        self._checksum = f"{checksum.algorithm}:{checksum.hexdigest.lower()}" if checksum else None
        self.journal = Journal(journal_path(target)) if resume else None
        self.file: ScatteredFile | None = None
        self.spans: list[ByteRange] = []
        """Written, and proved to be what was written."""
        self.keep = False

    def recall(self, still_wanted: Callable[[], None]) -> Identity | None:
        """What was begun, its pieces read and compared with their hashes; None if there is nothing to go on from.

        ``still_wanted`` is called now and then, and may raise.
        """
        identity = self.journal.identity() if self.journal else None
        if self.journal is None or identity is None or not self._is_ours(identity) or not self._has_part():
            return None
        self.file = ScatteredFile(self._target, identity.total, keep=True)
        for entry in self.journal.entries():
            if entry.span.end <= identity.total and _is_there(self.file, entry, still_wanted):
                self.spans.append(entry.span)
            else:
                self.journal.revoke(entry.span)
        log.info("download_resumed", bytes=sum(span.size for span in self.spans), total=identity.total)
        return identity if self.spans else None

    def begin(self, total: int, validator: Validator) -> ScatteredFile:
        """Start with nothing."""
        self.forget()
        if self.journal:
            self.journal.begin(Identity(self._url, total, validator.etag, validator.modified, self._checksum))
        self.file = ScatteredFile(self._target, total, keep=False)
        return self.file

    def forget(self) -> None:
        """Have nothing."""
        self.spans = []
        if self.journal:
            self.journal.clear()
        if self.file:
            self.file.close()
            self.file = None

    def close(self) -> None:
        """Remove both files, or keep them if that was decided."""
        begun = self.file is not None
        if self.file:
            self.file.close()
        if self.keep and self.journal and begun:
            self.journal.close()
            return
        with suppress(OSError):
            part_path(self._target).unlink(missing_ok=True)
        if self.journal:
            self.journal.remove()

    def _is_ours(self, identity: Identity) -> bool:
        """With a checksum, the file is the same wherever it comes from."""
        if self._checksum is not None:
            return identity.checksum == self._checksum
        return identity.url == self._url and (identity.etag or identity.modified) is not None

    def _has_part(self) -> bool:
        return part_path(self._target).is_file()


def _is_there(file: ScatteredFile, entry: Entry, still_wanted: Callable[[], None]) -> bool:
    position, end = entry.span
    crc = 0
    while position < end:
        still_wanted()
        data = file.read(position, min(end - position, _BLOCK))
        if not data:
            return False
        crc = zlib.crc32(data, crc)
        position += len(data)
    return crc == entry.hash
