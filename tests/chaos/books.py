"""The entries of a ledger, by what they are about."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from http import HTTPStatus
from typing import Any, TypeVar

from tests.chaos.ledger import Answered, Asked, Entry, Reference, Stored, Told

EntryT = TypeVar("EntryT", bound=Entry)

ACCEPTED = HTTPStatus.ACCEPTED.value

#: Steps of a job that services log.
SEPARATED, SETTLED = "separated", "job_settled"
STEPS = (SEPARATED, SETTLED)


@dataclass
class Books:
    """The entries of a ledger, by what they say."""

    entries: Sequence[Entry]

    def of(self, kind: type[EntryT]) -> Iterator[EntryT]:
        return (entry for entry in self.entries if isinstance(entry, kind))

    @cached_property
    def asked(self) -> dict[str, Asked]:
        return {entry.post: entry for entry in self.of(Asked)}

    @cached_property
    def answered(self) -> dict[str, Answered]:
        return {entry.post: entry for entry in self.of(Answered)}

    @cached_property
    def accepted(self) -> dict[str, str]:
        """The tasks with a 202, with their posts."""
        return {
            entry.task_uuid: post
            for post, entry in self.answered.items()
            if entry.status == ACCEPTED and entry.task_uuid
        }

    @cached_property
    def told(self) -> dict[str, list[Told]]:
        """The webhooks about each task, however they were answered."""
        found: dict[str, list[Told]] = defaultdict(list)
        for entry in self.of(Told):
            found[entry.task_uuid].append(entry)
        return dict(found)

    @cached_property
    def delivered(self) -> dict[str, Told]:
        """The tasks of which the receiver was told, with the first webhook that it took."""
        found: dict[str, Told] = {}
        for entry in self.of(Told):
            if entry.answered // 100 == 2:
                found.setdefault(entry.task_uuid, entry)
        return found

    @cached_property
    def unknown(self) -> dict[str, Answered | None]:
        """The tasks that were told of and have no 202, with what the client got instead; None: it never asked."""
        return {
            task: self.answered.get(post_of(told[0]) or "")
            for task, told in self.told.items()
            if task not in self.accepted
        }

    @cached_property
    def references(self) -> dict[str, dict[str, tuple[str, int]]]:
        return {entry.song: entry.stems for entry in self.of(Reference)}

    @cached_property
    def stored(self) -> dict[str, tuple[str, int]]:
        return {entry.key: (entry.sha256, entry.bytes) for entry in self.of(Stored)}

    def song_of(self, told: Told) -> str | None:
        asked = self.asked.get(post_of(told) or "")
        return asked.song if asked else None


def post_of(told: Told) -> str | None:
    """Under which name the client asked for the job, which the metadata carry there and back."""
    post = (body_of(told).get("metadata") or {}).get("post")
    return post if isinstance(post, str) else None


def body_of(told: Told) -> dict[str, Any]:
    """The webhook's body."""
    body: dict[str, Any] = json.loads(told.body)
    return body
