"""The protocol between the services and an object store.

Keys are derived from the task's identifier, so that a repeated step overwrites an object with the same content.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True)
class StoredObject:
    """The description of an object in a store."""

    key: str
    bytes: int


class ObjectStore(Protocol):
    """A flat namespace of objects; see ``pipeline.storage.object_keys`` for the keys.

    Every method raises InfrastructureError while the store cannot be reached or is full, and PermanentError (code
    ``storage_refused``) for a malformed key. Credentials or a bucket that the store refuses are an InfrastructureError
    as well: the operator has to correct them, and the job is not at fault.
    """

    def put(self, key: str, source: Path, *, content_type: str) -> StoredObject:
        """Store the file under ``key`` atomically; an existing object is replaced."""

    def get(self, key: str, target: Path) -> None:
        """Write the object to ``target`` atomically.

        Raises PermanentError (code ``object_missing``) if there is none.
        """

    def put_new(self, key: str, content: bytes, *, content_type: str) -> bytes:
        """Store ``content`` under ``key`` unless an object exists already; return the content that is stored now.

        If several callers do so concurrently, one wins, and all of them receive the winner's content. Intended for
        small objects.
        """

    def read(self, key: str) -> bytes:
        """Return the content of a small object. Raises PermanentError (code ``object_missing``) if there is none."""

    def stat(self, key: str) -> StoredObject | None:
        """Return the object's description, or None if there is none."""

    def copy_from(self, other: ObjectStore, source_key: str, key: str, *, content_type: str) -> StoredObject:
        """Copy an object of another store to ``key`` here, by the shortest way between the two stores.

        Raises PermanentError (code ``object_missing``) if the other store has no such object.
        """

    def url(self, key: str) -> str:
        """Return an HTTP(S) link that a client can fetch without credentials until the configured expiry.

        Raises PermanentError (code ``storage_refused``) for an object that is for the services alone.
        """

    def delete(self, key: str) -> None:
        """Remove the object; a missing object is not an error."""

    def check(self) -> None:
        """Raise InfrastructureError unless the store can be read and written now."""
