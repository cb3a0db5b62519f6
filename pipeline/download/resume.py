"""The state of an interrupted download, trusted only as far as its hashes are right."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from pipeline.download.checksum import Checksum
from pipeline.download.journal import Identity, Journal, JournalEntry
from pipeline.download.parallel.range_allocator import ByteRange
from pipeline.download.part_file import PartFile, part_path
from pipeline.download.validators import Validator
from pipeline.service.logs import get_logger

log = get_logger(__name__)

_BLOCK = 1024**2


def journal_path(target: Path) -> Path:
    """Return the path of the journal while the file is incomplete."""
    return target.with_name(f"{target.name}.journal")


class ResumeState:
    """The part file and the journal of one target; without ``resume`` there is no journal.

    ``close`` removes both files unless ``keep`` is set.
    """

    def __init__(self, target: Path, url: str, checksum: Checksum | None, *, resume: bool) -> None:
        self._target = target
        self._url = hashlib.sha256(url.encode()).hexdigest()
        self._checksum = f"{checksum.algorithm}:{checksum.hexdigest.lower()}" if checksum else None
        self.journal = Journal(journal_path(target)) if resume else None
        self.file: PartFile | None = None
        self.verified_ranges: list[ByteRange] = []
        """Ranges on the disk whose hash is right."""
        self.keep = False

    def load(self, raise_if_cancelled: Callable[[], None]) -> Identity | None:
        """Verify the pieces of an interrupted download. Return its identity; None if nothing can be resumed."""
        identity, pieces = self.journal.load() if self.journal else (None, [])
        if self.journal is None or identity is None or not part_path(self._target).is_file():
            return None
        if self._checksum is not None:  # the file is the same from every source
            matches = identity.checksum == self._checksum
        else:
            matches = identity.url == self._url and (identity.etag or identity.modified) is not None
        if not matches:
            return None
        self.file = file = PartFile(self._target, identity.total, keep=True)
        intact = [
            piece for piece in pieces if piece.end <= identity.total and _is_intact(file, piece, raise_if_cancelled)
        ]
        self.journal.write(identity, intact)
        self.verified_ranges = [ByteRange(piece.start, piece.end) for piece in intact]
        log.info("download_resumed", bytes=sum(span.size for span in self.verified_ranges), total=identity.total)
        return identity if intact else None

    def begin(self, total: int, validator: Validator) -> PartFile:
        """Start a new file of ``total`` bytes."""
        self.reset()
        if self.journal:
            self.journal.write(Identity(self._url, total, validator.etag, validator.modified, self._checksum))
        self.file = PartFile(self._target, total)
        return self.file

    def reset(self) -> None:
        """Discard all progress."""
        self.verified_ranges = []
        if self.journal:
            self.journal.write(None)
        if self.file:
            self.file.close()
            self.file = None

    def close(self) -> None:
        """Close both files, and remove them unless ``keep`` is set."""
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


def _is_intact(file: PartFile, piece: JournalEntry, raise_if_cancelled: Callable[[], None]) -> bool:
    position, crc = piece.start, 0
    while position < piece.end:
        raise_if_cancelled()
        data = file.read(position, min(piece.end - position, _BLOCK))
        if not data:
            return False
        crc = zlib.crc32(data, crc)
        position += len(data)
    return crc == piece.crc
