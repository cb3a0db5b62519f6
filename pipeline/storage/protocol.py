"""The protocol that the services speak to an object store.

Keys are derived from the task's identifier, so doing the same step twice overwrites an object with itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True)
class StoredObject:
    """What a store knows of an object."""

    key: str
    bytes: int


class ObjectStore(Protocol):
    """A flat space of objects under keys of ``/``-separated harmless segments.

    Every method raises InfrastructureError while the store cannot be reached or has no room, and PermanentError
    (code ``storage_refused``) for a malformed key. Credentials or a bucket that the store refuses are an
    InfrastructureError as well: they are the operator's to mend, not the job's fault.
    """

    def put(self, key: str, source: Path, *, content_type: str) -> StoredObject:
        """Store the file under ``key``, whole or not at all; an existing object is replaced."""

    def get(self, key: str, target: Path) -> None:
        """Write the object to ``target``, whole or not at all.

        Raises PermanentError (code ``object_missing``) if there is none.
        """

    def put_new(self, key: str, content: bytes, *, content_type: str) -> bytes:
        """Store ``content`` under ``key`` unless there is an object already; returns what is stored now.

        Of several callers at once one wins, and all of them are given the winner's content. Meant for small objects.
        """

    def read(self, key: str) -> bytes:
        """The whole content of a small object. Raises PermanentError (code ``object_missing``) if there is none."""

    def stat(self, key: str) -> StoredObject | None:
        """The object's description, or None if there is none."""

    def copy_from(self, other: ObjectStore, source_key: str, key: str, *, content_type: str) -> StoredObject:
        """Copy an object of another store to ``key`` here, by the shortest way that the two have.

        Raises PermanentError (code ``object_missing``) if the other store has no such object.
        """

    def url(self, key: str) -> str:
        """An HTTP(S) link that a client can fetch without credentials, for as long as the engine is set to."""

    def delete(self, key: str) -> None:
        """Remove the object; removing one that is not there is fine."""

    def check(self) -> None:
        """Raise InfrastructureError unless the store can be read and written now."""
