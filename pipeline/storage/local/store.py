"""The local engine: objects are files below one folder, served by the API under signed, expiring links."""

from __future__ import annotations

import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from pipeline.errors import ErrorCode, InfrastructureError, PermanentError
from pipeline.files import local_errors, make_folders, replacing, sync_directory, sync_file
from pipeline.storage.local import atomic
from pipeline.storage.object_keys import PRIVATE_PREFIXES, check_key, check_public_key
from pipeline.storage.protocol import ObjectStore, StoredObject
from pipeline.storage.signed_links import LinkSigner

#: Folder of files that are being written. ``~`` is not allowed in keys, so they are never visible as objects.
_DRAFTS = "drafts~"
#: Age after which a draft is considered abandoned by a dead process, s.
_STALE = 86_400.0
#: Maximum number of attempts of ``put_new`` when a concurrent delete removes the object before it is read back.
_MAX_DELETE_RACES = 10


@dataclass(frozen=True, slots=True)
class LocalObject:
    """An object in the local store, as it was found."""

    key: str
    bytes: int
    modified: float
    """Time at which it was stored, s since the epoch."""


class LocalStore:
    """An ``ObjectStore`` (see ``pipeline.storage.protocol``) in a folder. Safe for threads and concurrent processes.

    ``root`` is created by the first put. Objects become visible in one step, after their content is on the disk.
    ``base_url`` and ``links`` are needed for ``url`` only; links are valid for ``ttl`` s.
    """

    def __init__(self, root: Path, base_url: str = "", links: LinkSigner | None = None, ttl: int = 86_400) -> None:
        self._root = root
        self._drafts = root / _DRAFTS
        self._base_url = base_url.rstrip("/")
        self._links = links
        self._ttl = ttl
        self._swept = False

    def put(self, key: str, source: Path, *, content_type: str) -> StoredObject:
        """Store a copy of the file; ``content_type`` is not stored."""
        return self._store(key, lambda draft: shutil.copyfile(source, draft))

    def get(self, key: str, target: Path) -> None:
        """Copy the object's file to ``target``."""
        path = self.path_of(key)
        if path is None:
            raise _missing()
        with local_errors(), replacing(target) as partial:
            try:
                shutil.copyfile(path, partial)
            except FileNotFoundError:
                # The object was deleted meanwhile, unless the folder of the target is missing.
                if path.exists():
                    raise
                raise _missing() from None

    def put_new(self, key: str, content: bytes, *, content_type: str) -> bytes:
        """Store ``content`` unless an object exists; a hard link decides which of several callers is first."""
        for _ in range(_MAX_DELETE_RACES):
            self._store(key, lambda draft: draft.write_bytes(content), atomic.rename_if_absent)
            try:
                return self.read(key)
            except PermanentError:
                continue
        raise InfrastructureError("an object is deleted while it is stored", code=ErrorCode.STORAGE_UNAVAILABLE)

    def read(self, key: str) -> bytes:
        """Return the content of the object's file, after its name is durable."""
        path = self._root / check_key(key)
        with local_errors():
            try:
                content = path.read_bytes()
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                raise _missing() from None
            # The reader may act on the content, so it must survive a power failure even if its writer died before it
            # synchronised the folder.
            sync_directory(path.parent)
        return content

    def stat(self, key: str) -> StoredObject | None:
        """Return the size of the object's file; None if there is no such file."""
        path = self._root / check_key(key)
        with local_errors():
            try:
                status = path.stat()
            except (FileNotFoundError, NotADirectoryError):
                return None
        return StoredObject(key, status.st_size) if stat.S_ISREG(status.st_mode) else None

    def copy_from(self, other: ObjectStore, source_key: str, key: str, *, content_type: str) -> StoredObject:
        """Copy an object; from another local store by a hard link, if both are on one file system."""
        if not isinstance(other, LocalStore):
            return self._store(key, lambda draft: other.get(source_key, draft))
        path = other.path_of(source_key)
        if path is None:
            raise _missing()
        return self._store(key, lambda draft: _link_or_copy(path, draft))

    def url(self, key: str) -> str:
        """Return a signed link to the API's ``/files`` endpoint. Raises PermanentError without ``links``."""
        check_public_key(key)
        if self._links is None:
            raise PermanentError("this store serves no links", code=ErrorCode.INTERNAL)
        expires = int(time.time()) + self._ttl
        return f"{self._base_url}/files/{key}?{self._links.sign(key, expires)}"

    def delete(self, key: str) -> None:
        """Remove the object's file, and the folders that become empty."""
        path = self._root / check_key(key)
        with local_errors():
            with suppress(FileNotFoundError, NotADirectoryError, IsADirectoryError):
                path.unlink()
            atomic.prune_empty_folders(path.parent, self._root)

    def check(self) -> None:
        """Write and read a draft. Raises InfrastructureError."""
        with local_errors(), self._draft() as draft:
            draft.write_bytes(b"check")
            draft.read_bytes()

    def path_of(self, key: str) -> Path | None:
        """Return the file that contains the object, for serving it; None if there is none."""
        return None if self.stat(key) is None else self._root / check_key(key)

    def objects(self) -> Iterator[LocalObject]:
        """Yield the objects at the top and in the folders of the services; other folders are not the store's."""
        with local_errors():
            folders = [self._root, *self._private_folders()]
            for folder in folders:
                for path in sorted(folder.iterdir()) if folder.is_dir() else ():
                    with suppress(FileNotFoundError):
                        status = path.lstat()
                        if stat.S_ISREG(status.st_mode):
                            key = path.relative_to(self._root).as_posix()
                            yield LocalObject(key, status.st_size, status.st_mtime)

    def remove_unchanged(self, found: LocalObject) -> bool:
        """Remove the object unless it has been replaced or removed since it was found; return whether it was removed.

        The object is moved out of sight before it is compared: no other process can replace it then.
        """
        path = self._root / check_key(found.key)
        with local_errors(), self._draft() as draft:
            try:
                os.rename(path, draft)
            except FileNotFoundError:
                return False
            if draft.stat().st_mtime != found.modified:
                atomic.publish_draft(draft, path, atomic.rename_if_absent)
                return False
        return True

    def remove_empty_folders(self) -> None:
        """Remove the empty folders of the services."""
        with local_errors():
            for folder in self._private_folders():
                atomic.prune_empty_folders(folder, self._root)

    def _private_folders(self) -> Iterator[Path]:
        """Yield the folders of objects that are for the services alone, the deepest first."""
        for prefix in PRIVATE_PREFIXES:
            for folder, _, _ in os.walk(self._root / prefix, topdown=False):
                yield Path(folder)

    def _store(
        self,
        key: str,
        write: Callable[[Path], object],
        rename: Callable[[Path, Path], None] = os.replace,
    ) -> StoredObject:
        path = self._root / check_key(key)
        with local_errors(), self._draft() as draft:
            write(draft)
            sync_file(draft)
            size = draft.stat().st_size
            atomic.publish_draft(draft, path, rename)
        return StoredObject(key, size)

    @contextmanager
    def _draft(self) -> Iterator[Path]:
        """Yield a path for a new file on the store's file system; it is removed at the end unless it was renamed.

        The first call also removes stale drafts.
        """
        make_folders(self._drafts)
        if not self._swept:
            self._swept = True
            for stale in self._drafts.iterdir():
                with suppress(FileNotFoundError):
                    if stale.stat().st_mtime < time.time() - _STALE:
                        stale.unlink()
        draft = self._drafts / uuid4().hex
        try:
            yield draft
        finally:
            draft.unlink(missing_ok=True)


def _link_or_copy(source: Path, draft: Path) -> None:
    """Link the files if possible: objects are replaced, never modified, so two names may share one file.

    The copy is as old as the copying, which counts for its retention.
    """
    try:
        os.link(source, draft)
        os.utime(draft)
    except FileNotFoundError:
        raise _missing() from None
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, draft)


def _missing() -> PermanentError:
    return PermanentError("there is no such object in the store", code=ErrorCode.OBJECT_MISSING)
