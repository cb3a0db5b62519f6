"""Whether two answers are about the same bytes: entity tags, dates and ``Content-Range``, read strictly."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from enum import Enum, auto

#: RFC 9110 section 8.8.3, strong form only: a weak tag promises the same meaning, not the same bytes.
_STRONG_ETAG = re.compile(r'"[\x21\x23-\x7e\x80-\xff]{0,1024}"')
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18})", re.ASCII | re.IGNORECASE)

#: RFC 9110 section 8.8.2.2: a date is as good as a strong tag only if the file was not touched again within the second
#: that the date can tell; as far apart as here, even two clocks that differ agree about that. In s.
_SETTLED = 60.0


class Agreement(Enum):
    """What an answer says about being part of the file that we have begun."""

    SAME = auto()
    CHANGED = auto()
    SILENT = auto()


@dataclass(frozen=True, slots=True)
class Validator:
    """What identifies one version of a file at one source, byte for byte. Falsy if nothing does."""

    etag: str | None = None
    """A strong entity tag, quotes included."""
    modified: str | None = None
    """``Last-Modified``, where it is strong, as it was sent."""

    def __bool__(self) -> bool:
        return self.etag is not None or self.modified is not None

    @classmethod
    def of(cls, headers: Mapping[str, str]) -> Validator:
        """What an answer offers."""
        etag = headers.get("ETag", "").strip()
        if _STRONG_ETAG.fullmatch(etag):
            return cls(etag=etag)
        return cls(modified=_strong_date(headers))

    def conditions(self, if_range: bool) -> dict[str, str]:
        """Headers that ask for a range of this version only.

        ``if_range``: a changed file is answered with 200 and all of it, instead of 412 and nothing.
        """
        if self.etag is not None:
            return {"If-Range" if if_range else "If-Match": self.etag}
        if self.modified is not None:
            return {"If-Range" if if_range else "If-Unmodified-Since": self.modified}
        return {}

    def compare(self, headers: Mapping[str, str]) -> Agreement:
        """Whether an answer with these headers is about this version."""
        name, mine = ("ETag", self.etag) if self.etag is not None else ("Last-Modified", self.modified)
        if mine is None:
            return Agreement.SAME
        theirs = headers.get(name)
        if theirs is None:
            return Agreement.SILENT
        return Agreement.SAME if theirs.strip() == mine else Agreement.CHANGED


@dataclass(frozen=True, slots=True)
class ContentRange:
    """Bytes ``start`` to before ``end`` of ``total``."""

    start: int
    end: int
    total: int

    @classmethod
    def of(cls, headers: Mapping[str, str]) -> ContentRange | None:
        """What an answer says that it is; None if it says nothing that makes sense, or not how long the file is."""
        match = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", "").strip())
        if match is None:
            return None
        first, last, total = map(int, match.groups())
        return cls(first, last + 1, total) if first <= last < total else None


def _strong_date(headers: Mapping[str, str]) -> str | None:
    modified = headers.get("Last-Modified", "").strip()
    try:
        age = parsedate_to_datetime(headers["Date"]) - parsedate_to_datetime(modified)
    except (KeyError, ValueError, TypeError, OverflowError):  # TypeError: one of them is without a zone
        return None
    return modified if age.total_seconds() >= _SETTLED else None
