"""Output of dead letters. Their content is untrusted: control characters are escaped and secrets in URLs are hidden."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from pipeline.dead_letters.letter import Letter
from pipeline.service.command_line import print_table, printable
from pipeline.service.logs import loggable_origin, loggable_url

#: The part of a body that is shown if it is not JSON, bytes.
PREVIEW_BYTES = 512
_PER_LINE = 16

_URL = re.compile(r"https?://[^\s\"'<>\\]+", re.IGNORECASE)


def print_letters(letters: Sequence[Letter], *, with_resolution: bool = False) -> None:
    """Print one row for each letter, below headings."""
    rows = []
    for letter in letters:
        facts = [str(letter.position), _utc(letter.failed_at), letter.kind, letter.code, letter.topic, letter.key]
        facts += [resolution(letter), letter.error] if with_resolution else [letter.error]
        rows.append([fact or "-" for fact in facts])
    resolved = ["RESOLVED"] if with_resolution else []
    print_table(rows, headings=["ID", "FAILED (UTC)", "KIND", "CODE", "TOPIC", "TASK", *resolved, "WHY"])


def as_json(letter: Letter) -> str:
    """Return the letter without its body as one line of ASCII JSON."""
    last = letter.marks[-1] if letter.marks else None
    facts = {
        "id": str(letter.position),
        "task": letter.key,
        "topic": letter.topic,
        "kind": letter.kind,
        "code": letter.code,
        "why": letter.error,
        "failed_at": letter.failed_at,
        "bytes": letter.original_bytes,
        "cut": letter.is_truncated,
        "resolution": last and last.resolution,
        "resolved_at": last and last.at,
    }
    return json.dumps(facts)


def details(letter: Letter, replay_result: str, *, raw: bool) -> Iterator[str]:
    """Yield the lines that describe one letter.

    ``replay_result``: the effect of a replay, in words. ``raw`` shows URLs in full.
    """
    yield from _aligned(
        {
            "id": str(letter.position),
            "task": letter.key,
            "topic": letter.topic,
            "failed": f"{_utc(letter.failed_at)} UTC",
            "error": f"{letter.kind}, {letter.code}",
            "why": letter.error,
            "resolved": resolution(letter) or "no",
            "replay": replay_result,
        }
    )
    yield from ("", "headers")
    headers = {name: value.decode("utf-8", "backslashreplace") for name, value in letter.message.headers.items()}
    yield from _aligned(headers if raw else {name: _hide_secrets(value) for name, value in headers.items()})
    yield ""
    yield from _body(letter.message.value, raw=raw)


def resolution(letter: Letter) -> str:
    """Return the last resolution and its time; empty if the letter is unresolved."""
    return f"{letter.marks[-1].resolution} {_utc(letter.marks[-1].at)} UTC" if letter.marks else ""


def _aligned(facts: dict[str, str]) -> Iterator[str]:
    width = max(map(len, facts), default=0)
    for name, fact in facts.items():
        yield f"  {printable(name).ljust(width)}  {printable(fact) or '-'}"


def _body(value: bytes, *, raw: bool) -> Iterator[str]:
    """Yield the body as indented JSON or, if it is not JSON, its first bytes in hexadecimal and as text."""
    note = "" if raw else ", URLs without their secrets"
    try:
        document = json.loads(value.decode())
        text = json.dumps(document if raw else _mask(document), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        yield f"body: {len(value)} bytes that are not JSON{note}"
        shown = value if raw else _hide_secrets(value.decode("latin-1")).encode("latin-1")
        for start in range(0, min(len(shown), PREVIEW_BYTES), _PER_LINE):
            part = shown[start : min(start + _PER_LINE, PREVIEW_BYTES)]
            characters = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in part)
            yield f"  {start:06x}  {part.hex(' ').ljust(3 * _PER_LINE - 1)}  {characters}"
        if len(shown) > PREVIEW_BYTES:
            yield f"  … and {len(shown) - PREVIEW_BYTES} bytes more"
        return
    yield f"body: {len(value)} bytes of JSON{note}"
    yield from (f"  {printable(line)}" for line in text.split("\n"))


def _mask(document: Any, name: str = "") -> Any:
    """Return ``document`` with the secrets of its URLs removed. ``name``: the field that holds it.

    Only the host of a webhook is kept, since its whole address is often a secret. The fields ``audio`` and
    ``hook_url`` are masked whole: a malformed URL may not end at the first space.
    """
    if isinstance(document, dict):
        return {key: _mask(value, key) for key, value in document.items()}
    if isinstance(document, list):
        return [_mask(item) for item in document]
    if not isinstance(document, str):
        return document
    if name == "audio":
        return loggable_url(document)
    if name == "hook_url":
        return loggable_origin(document)
    return _URL.sub(lambda url: loggable_url(url[0]), document)


def _hide_secrets(text: str) -> str:
    return _URL.sub(lambda url: loggable_origin(url[0]), text)


def _utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
