"""The local engine: objects are files below one folder, served by the API under signed, expiring links."""

from __future__ import annotations

import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from pipeline.errors import ErrorCode, InfrastructureError, PermanentError
from pipeline.files import local_errors, replacing, sync_directory, sync_file
from pipeline.storage.local import names
from pipeline.storage.object_keys import check_key
from pipeline.storage.protocol import ObjectStore, StoredObject
from pipeline.storage.signed_links import LinkSigner

#: Files that are being written lie here; ``~`` is in no key, so they are never seen as objects.
_DRAFTS = "drafts~"
#: Drafts older than this (s) were left by a process that died.
_STALE = 86_400.0
#: How often a first content is stored again when a concurrent delete removes it before it is read back.
_DELETE_RACES = 10


class LocalStore:
    """See ``pipeline.storage.protocol.ObjectStore``. Safe for several threads and processes at once.

    ``root`` is made at the first put. Objects become visible in one step, after their content is on the disk.
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
        return self._store(key, lambda draft: _copy(source, draft))

    def get(self, key: str, target: Path) -> None:
        path = self.path_of(key)
        if path is None:
            raise _missing()
        with local_errors(), replacing(target) as partial:
            try:
                shutil.copyfile(path, partial)
            except FileNotFoundError:
                # The source was deleted meanwhile, unless it is the target's folder that is not there.
                if path.exists():
                    raise
                raise _missing() from None

    def put_new(self, key: str, content: bytes, *, content_type: str) -> bytes:
        for _ in range(_DELETE_RACES):
            self._store(key, lambda draft: _write(content, draft), names.claim)
            try:
                return self.read(key)
            except PermanentError:
                continue
        raise InfrastructureError("an object is deleted while it is stored", code=ErrorCode.STORAGE_UNAVAILABLE)

    def read(self, key: str) -> bytes:
        path = self._locate(key)
        with local_errors():
            try:
                content = path.read_bytes()
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                raise _missing() from None
            # Who reads it may act on it, so it must outlive a power cut even if its writer died before seeing to that.
            sync_directory(path.parent)
        return content

    def stat(self, key: str) -> StoredObject | None:
        size = _size_of(self._locate(key))
        return None if size is None else StoredObject(key, size)

    def copy_from(self, other: ObjectStore, source_key: str, key: str, *, content_type: str) -> StoredObject:
        if not isinstance(other, LocalStore):
            return self._store(key, lambda draft: _fetch(other, source_key, draft))
        path = other.path_of(source_key)
        if path is None:
            raise _missing()
        return self._store(key, lambda draft: _link_or_copy(path, draft))

    def url(self, key: str) -> str:
        check_key(key)
        if self._links is None:
            raise PermanentError("this store serves no links", code=ErrorCode.INTERNAL)
        expires = int(time.time()) + self._ttl
        return f"{self._base_url}/files/{key}?{self._links.sign(key, expires)}"

    def delete(self, key: str) -> None:
        path = self._locate(key)
        with local_errors():
            with suppress(FileNotFoundError, NotADirectoryError, IsADirectoryError):
                path.unlink()
            names.prune(path.parent, self._root)

    def check(self) -> None:
        with local_errors(), self._draft() as draft:
            draft.write_bytes(b"check")
            draft.read_bytes()

    def path_of(self, key: str) -> Path | None:
        """The file that holds the object, for serving it; None if there is none."""
        path = self._locate(key)
        return None if _size_of(path) is None else path

    def _locate(self, key: str) -> Path:
        return self._root / check_key(key)

    def _store(self, key: str, write: Callable[[Path], None], naming: names.Naming = names.replace) -> StoredObject:
        path = self._locate(key)
        with local_errors(), self._draft() as draft:
            write(draft)
            size = draft.stat().st_size
            names.give_name(draft, path, naming)
        return StoredObject(key, size)

    @contextmanager
    def _draft(self) -> Iterator[Path]:
        """A path for a new file on the store's own file system, gone at the end unless it was renamed."""
        self._prepare()
        draft = self._drafts / uuid4().hex
        try:
            yield draft
        finally:
            draft.unlink(missing_ok=True)

    def _prepare(self) -> None:
        self._drafts.mkdir(parents=True, exist_ok=True)
        if self._swept:
            return
        self._swept = True
        for draft in self._drafts.iterdir():
            with suppress(FileNotFoundError):
                if draft.stat().st_mtime < time.time() - _STALE:
                    draft.unlink()


def _copy(source: Path, draft: Path) -> None:
    shutil.copyfile(source, draft)
    sync_file(draft)


def _write(content: bytes, draft: Path) -> None:
    draft.write_bytes(content)
    sync_file(draft)


def _fetch(store: ObjectStore, key: str, draft: Path) -> None:
    store.get(key, draft)
    sync_file(draft)


def _link_or_copy(source: Path, draft: Path) -> None:
    """Objects are replaced, never changed, so two names may share one file."""
    try:
        os.link(source, draft)
    except FileNotFoundError:
        raise _missing() from None
    except OSError:  # another file system, or one without hard links
        _copy(source, draft)


def _size_of(path: Path) -> int | None:
    """Bytes of the file; None if there is no such file."""
    with local_errors():
        try:
            status = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def _missing() -> PermanentError:
    return PermanentError("there is no such object in the store", code=ErrorCode.OBJECT_MISSING)
