"""Entity tags, dates and ``Content-Range``, parsed strictly, to decide whether two responses carry the same file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from enum import Enum, auto

#: RFC 9110 section 8.8.3, strong form only: a weak tag does not guarantee identical bytes.
_STRONG_ETAG = re.compile(r'"[\x21\x23-\x7e\x80-\xff]{0,1024}"')
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18})", re.ASCII | re.IGNORECASE)

#: RFC 9110 section 8.8.2.2: a date is a strong validator only if the file cannot have changed twice within the second
#: that it names. At this age (s), two clocks that differ agree on that as well.
_STRONG_AGE = 60.0


class Agreement(Enum):
    """The result of comparing a response with the version being downloaded."""

    SAME = auto()
    CHANGED = auto()
    SILENT = auto()
    """The response names no version."""


@dataclass(frozen=True, slots=True)
class Validator:
    """Identifies one version of a file at one source, byte for byte. Falsy if the source names no version."""

    etag: str | None = None
    """A strong entity tag, quotes included."""
    modified: str | None = None
    """``Last-Modified`` as it was sent, if it is strong."""

    def __bool__(self) -> bool:
        return self.etag is not None or self.modified is not None

    @classmethod
    def of(cls, headers: Mapping[str, str]) -> Validator:
        """Return the strongest validator in the response headers."""
        etag = headers.get("ETag", "").strip()
        if _STRONG_ETAG.fullmatch(etag):
            return cls(etag=etag)
        modified = headers.get("Last-Modified", "").strip()
        try:
            age = parsedate_to_datetime(headers["Date"]) - parsedate_to_datetime(modified)
        except (KeyError, ValueError, TypeError, OverflowError):  # TypeError: one of the two has no time zone
            return cls()
        return cls(modified=modified) if age.total_seconds() >= _STRONG_AGE else cls()

    def conditions(self, if_range: bool) -> dict[str, str]:
        """Return request headers that restrict a range request to this version.

        ``if_range``: a changed file is answered with 200 and the whole file, instead of 412 without a body.
        """
        if self.etag is not None:
            return {"If-Range" if if_range else "If-Match": self.etag}
        if self.modified is not None:
            return {"If-Range" if if_range else "If-Unmodified-Since": self.modified}
        return {}

    def compare(self, headers: Mapping[str, str]) -> Agreement:
        """Compare the version that response headers name with this one."""
        name, expected = ("ETag", self.etag) if self.etag is not None else ("Last-Modified", self.modified)
        if expected is None:
            return Agreement.SAME
        actual = headers.get(name)
        if actual is None:
            return Agreement.SILENT
        return Agreement.SAME if actual.strip() == expected else Agreement.CHANGED


@dataclass(frozen=True, slots=True)
class ContentRange:
    """Bytes ``start`` to ``end`` (exclusive) of a file of ``total`` bytes."""

    start: int
    end: int
    total: int

    @classmethod
    def of(cls, headers: Mapping[str, str]) -> ContentRange | None:
        """Parse ``Content-Range``; None if it is missing, malformed or without the size of the file."""
        match = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", "").strip())
        if match is None:
            return None
        first, last, total = map(int, match.groups())
        return cls(first, last + 1, total) if first <= last < total else None
