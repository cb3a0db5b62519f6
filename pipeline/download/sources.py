"""The sources of one file, in the order in which they are tried."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from pipeline.download.ssrf.url_parser import ParsedUrl
from pipeline.download.validators import Validator
from pipeline.service.logs import loggable_url


class SourceChangedError(Exception):
    """The source now serves another version of the file, so the bytes received so far are useless."""


class RangesLostError(Exception):
    """The source no longer answers range requests for the file."""


@dataclass(eq=False, slots=True)
class Source:
    """One URL of the file and what is known of it."""

    url: ParsedUrl
    subject: str = field(init=False)
    """Name in error messages and logs."""
    location: ParsedUrl = field(init=False)
    """The URL at the end of the redirects; requested directly while it works."""
    validator: Validator | None = None
    """The validator of the version being downloaded; None before the first response."""
    if_range: bool = False
    """Send ``If-Range`` instead of ``If-Match``, after ``If-Match`` has failed once."""
    consecutive_failures: int = 0
    """Failures in a row without progress."""

    def __post_init__(self) -> None:
        self.subject = loggable_url(self.url.url)
        self.location = self.url


class Sources:
    """The sources still in use. The last one is the origin."""

    def __init__(self, sources: Iterable[Source]) -> None:
        self._remaining = list(sources)

    @property
    def current(self) -> Source:
        """The source to request next."""
        return self._remaining[0]

    def is_last(self, source: Source) -> bool:
        """Return whether no other source remains."""
        return all(other is source for other in self._remaining)

    def drop(self, source: Source) -> None:
        """Stop using ``source``, unless it is the last one."""
        if source in self._remaining and len(self._remaining) > 1:
            self._remaining.remove(source)
