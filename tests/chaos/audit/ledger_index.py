"""Indexes the entries of a ledger by request and by task."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from http import HTTPStatus
from typing import Any, TypeVar

from tests.chaos.audit.ledger import (
    Entry,
    LogDestroyed,
    ObjectFound,
    Reference,
    RequestSent,
    ResponseReceived,
    WebhookReceived,
)

EntryT = TypeVar("EntryT", bound=Entry)

ACCEPTED = HTTPStatus.ACCEPTED.value

#: Log events of the steps of a job.
SEPARATED, SETTLED = "separated", "job_settled"
STEPS = (SEPARATED, SETTLED)


@dataclass
class LedgerIndex:
    """The entries of a ledger, indexed by kind, request and task."""

    entries: Sequence[Entry]

    def of(self, kind: type[EntryT]) -> Iterator[EntryT]:
        return (entry for entry in self.entries if isinstance(entry, kind))

    @cached_property
    def requests(self) -> dict[str, RequestSent]:
        return {entry.post: entry for entry in self.of(RequestSent)}

    @cached_property
    def responses(self) -> dict[str, ResponseReceived]:
        return {entry.post: entry for entry in self.of(ResponseReceived)}

    @cached_property
    def accepted(self) -> dict[str, str]:
        """The tasks with a 202 response, with their posts."""
        return {
            entry.task_uuid: post
            for post, entry in self.responses.items()
            if entry.status == ACCEPTED and entry.task_uuid
        }

    @cached_property
    def expendable(self) -> frozenset[str]:
        """The tasks that may be lost, since a log with their message was destroyed before a member began them."""
        return frozenset(task for entry in self.of(LogDestroyed) for task in entry.expendable)

    @property
    def lost(self) -> frozenset[str]:
        """The tasks with a 202 for which no webhook was delivered."""
        return frozenset(self.accepted.keys() - self.delivered.keys())

    @cached_property
    def webhooks(self) -> dict[str, list[WebhookReceived]]:
        """The webhooks for each task, whatever the status of their responses."""
        found: dict[str, list[WebhookReceived]] = defaultdict(list)
        for entry in self.of(WebhookReceived):
            found[entry.task_uuid].append(entry)
        return dict(found)

    @cached_property
    def delivered(self) -> dict[str, WebhookReceived]:
        """The tasks with a delivered webhook (2xx), with the first of them."""
        found: dict[str, WebhookReceived] = {}
        for entry in self.of(WebhookReceived):
            if entry.status // 100 == 2:
                found.setdefault(entry.task_uuid, entry)
        return found

    @cached_property
    def unexpected(self) -> dict[str, ResponseReceived | None]:
        """The tasks with a webhook but without a 202, with the response to the client; None: no such request."""
        return {
            task: self.responses.get(post_of(webhooks[0]) or "")
            for task, webhooks in self.webhooks.items()
            if task not in self.accepted
        }

    @cached_property
    def references(self) -> dict[str, dict[str, tuple[str, int]]]:
        return {entry.song: entry.stems for entry in self.of(Reference)}

    @cached_property
    def objects(self) -> dict[str, tuple[str, int]]:
        return {entry.key: (entry.sha256, entry.bytes) for entry in self.of(ObjectFound)}

    def song_of(self, webhook: WebhookReceived) -> str | None:
        request = self.requests.get(post_of(webhook) or "")
        return request.song if request else None


def post_of(webhook: WebhookReceived) -> str | None:
    """Return the client's identifier of the request, which the metadata echo."""
    post = (body_of(webhook).get("metadata") or {}).get("post")
    return post if isinstance(post, str) else None


def body_of(webhook: WebhookReceived) -> dict[str, Any]:
    """Return the parsed body of a webhook."""
    body: dict[str, Any] = json.loads(webhook.body)
    return body
