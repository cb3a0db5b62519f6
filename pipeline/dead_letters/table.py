"""How letters are shown. What is in them came from anywhere: nothing of it may command the terminal."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from pipeline.dead_letters.letter import Letter
from pipeline.service.logs import loggable_origin, loggable_url

#: What is shown of a body that is not JSON, bytes.
PREVIEW_BYTES = 512
_PER_LINE = 16

_HEAD = ("ID", "FAILED (UTC)", "KIND", "CODE", "TOPIC", "TASK", "WHY")
_URL = re.compile(r"https?://[^\s\"'<>\\]+", re.IGNORECASE)


def letters_table(letters: Sequence[Letter], *, with_resolution: bool = False) -> Iterator[str]:
    """A line per letter, under a head, in columns."""
    rows = [_HEAD, *(_row(letter) for letter in letters)]
    if with_resolution:
        rows = [(*rows[0][:-1], "RESOLVED", rows[0][-1])] + [
            (*row[:-1], resolution(letter) or "-", row[-1]) for row, letter in zip(rows[1:], letters, strict=True)
        ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def as_json(letter: Letter) -> str:
    """The letter without its body, as one line of JSON, in ASCII."""
    last = letter.marks[-1] if letter.marks else None
    facts = {
        "id": str(letter.position),
        "task": letter.key,
        "topic": letter.topic,
        "kind": letter.kind,
        "code": letter.code,
        "why": letter.why,
        "failed_at": letter.failed_at,
        "bytes": letter.original_bytes,
        "cut": letter.is_cut,
        "resolution": last and last.resolution,
        "resolved_at": last and last.at,
    }
    return json.dumps(facts)


def details(letter: Letter, replayed_as: str, *, raw: bool) -> Iterator[str]:
    """Everything about one letter. ``replayed_as``: what a replay would do. ``raw``: URLs in full."""
    facts = {
        "id": str(letter.position),
        "task": letter.key,
        "topic": letter.topic,
        "failed": f"{_utc(letter.failed_at)} UTC",
        "error": f"{letter.kind}, {letter.code}",
        "why": letter.why,
        "resolved": resolution(letter) or "no",
        "replay": replayed_as,
    }
    yield from _fields(facts)
    yield ""
    yield "headers"
    headers = {name: value.decode("utf-8", "backslashreplace") for name, value in letter.message.headers.items()}
    yield from _fields(headers if raw else {name: _without_secrets(value) for name, value in headers.items()})
    yield ""
    yield from _body(letter.message.value, raw=raw)


def resolution(letter: Letter) -> str:
    """What was done with the letter last, and when; empty if nothing was."""
    return f"{letter.marks[-1].resolution} {_utc(letter.marks[-1].at)} UTC" if letter.marks else ""


def printable(text: str) -> str:
    """``text`` in one line, with everything escaped that is not to be seen: control characters above all."""
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode("ascii") for sign in text)


def _row(letter: Letter) -> tuple[str, ...]:
    facts = (letter.kind, letter.code, letter.topic, letter.key, letter.why)
    return (str(letter.position), _utc(letter.failed_at), *(printable(fact) or "-" for fact in facts))


def _fields(facts: dict[str, str]) -> Iterator[str]:
    width = max(map(len, facts), default=0)
    for name, fact in facts.items():
        yield f"  {printable(name).ljust(width)}  {printable(fact) or '-'}"


def _body(value: bytes, *, raw: bool) -> Iterator[str]:
    note = "" if raw else ", URLs without their secrets"
    try:
        document = json.loads(value.decode())
        text = json.dumps(document if raw else _masked(document), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        yield f"body: {len(value)} bytes that are not JSON{note}"
        yield from _dump(value if raw else _without_secrets(value.decode("latin-1")).encode("latin-1"))
        return
    yield f"body: {len(value)} bytes of JSON{note}"
    yield from (f"  {printable(line)}" for line in text.split("\n"))


def _masked(document: Any) -> Any:
    """``document`` with every URL in it fit to be shown; of the webhook's, often a secret, only the host."""
    if isinstance(document, dict):
        return {name: _masked_field(name, value) for name, value in document.items()}
    if isinstance(document, list):
        return [_masked(item) for item in document]
    return _URL.sub(lambda url: loggable_url(url[0]), document) if isinstance(document, str) else document


def _masked_field(name: str, value: Any) -> Any:
    # Whole, since a URL that is not well formed does not end where it should.
    show = {"audio": loggable_url, "hook_url": loggable_origin}.get(name)
    return show(value) if show is not None and isinstance(value, str) else _masked(value)


def _without_secrets(text: str) -> str:
    return _URL.sub(lambda url: loggable_origin(url[0]), text)


def _dump(value: bytes) -> Iterator[str]:
    """The first bytes in hexadecimal and as text."""
    for start in range(0, min(len(value), PREVIEW_BYTES), _PER_LINE):
        part = value[start : min(start + _PER_LINE, PREVIEW_BYTES)]
        text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in part)
        yield f"  {start:06x}  {part.hex(' ').ljust(3 * _PER_LINE - 1)}  {text}"
    if len(value) > PREVIEW_BYTES:
        yield f"  … and {len(value) - PREVIEW_BYTES} bytes more"


def _utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
