"""The places that a file can be had from, in the order in which they are asked."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from pipeline.download.ssrf.url_parser import ParsedUrl
from pipeline.download.validators import Validator
from pipeline.service.logs import loggable_url


class SourceChangedError(Exception):
    """The file at the source is not the one that was begun: what there is of it is worth nothing."""


class RangesLostError(Exception):
    """The source no longer gives parts of the file."""


@dataclass(eq=False, slots=True)
class Source:
    """One place."""

    url: ParsedUrl
    subject: str = field(init=False)
    """Its name in error messages and logs."""
    place: ParsedUrl = field(init=False)
    """Where the redirects from ``url`` led; asked directly while it answers."""
    validator: Validator | None = None
    """Of the version that is being fetched; None before the first answer."""
    if_range: bool = False
    """Whether to ask with ``If-Range``, because ``If-Match`` did not do."""
    strikes: int = 0
    """Failures in a row without progress."""

    def __post_init__(self) -> None:
        self.subject = loggable_url(self.url.url)
        self.place = self.url


class Sources:
    """The sources that are left. The last one is the origin."""

    def __init__(self, sources: Iterable[Source]) -> None:
        self._left = list(sources)

    @property
    def current(self) -> Source:
        """The one to ask now."""
        return self._left[0]

    def is_last(self, source: Source) -> bool:
        """Whether there is no other one."""
        return all(other is source for other in self._left)

    def drop(self, source: Source) -> None:
        """Ask ``source`` no more, unless it is the last."""
        if source in self._left and len(self._left) > 1:
            self._left.remove(source)
