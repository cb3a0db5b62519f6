"""Servers that lie, dawdle and break off: each fault as a function from a request to an answer."""

from __future__ import annotations

import base64
import hashlib
import itertools
import os
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Final

from benchmarks.download.answer import After, Answer, AnswerRange, Request, ServedFile, plan
from benchmarks.download.profile import MIB
from benchmarks.download.run import DownloadRun

Behaviour = Callable[[Request, DownloadRun], Answer]

CUT_AFTER: Final = 5_000_000
"""Bytes of each answer that arrive."""
LIE: Final = 1000
"""Bytes by which a length is wrong."""
BOMB_BYTES: Final = 256 * MIB
"""Of the bomb when it has gone off."""
DRIP_RATE: Final = 4.0
"""bytes/s."""

#: Answers shorter than this are probes: a fault that strikes once waits for one that carries data.
_PROBE = 64 * 1024
_DRIP_AFTER = 256 * 1024
_SLICE = 64 * 1024


def honest(request: Request, run: DownloadRun) -> Answer:
    return plan(request, run.old)


def replaced_version(request: Request, run: DownloadRun) -> Answer:
    """The first two answers with data are of the old file; whatever is asked for later is of another, as long.

    Two, since there are clients that only look at the head of the first one.
    """
    answer = plan(request, run.old)
    if _carries_data(answer) and (run.first("first data") or run.first("second data")):
        return answer
    return plan(request, run.new) if run.happened("second data") else answer


def replaced_and_cut(request: Request, run: DownloadRun) -> Answer:
    """When half has been delivered, every connection breaks, and the file is another, as long."""
    answer = plan(request, run.new if _half_delivered(run) else run.old)
    if _half_delivered(run) or answer.span is None:
        return answer
    return _closing(answer, body=_until_half(answer.span, run))


def forced_200(request: Request, run: DownloadRun) -> Answer:
    """One range is honoured; every later one is answered with the whole file, from its start."""
    return plan(request, run.old, ranges="range" not in request.headers or run.first("range"))


def flipped(request: Request, run: DownloadRun) -> Answer:
    """A byte is wrong the first time that it is delivered."""
    answer = plan(request, run.old)
    place = run.profile.size // 3
    span = answer.span
    if span is None or not span.offset <= place < span.offset + span.length:
        return answer
    return replace(answer, body=_with_flip(span, place, run))


def flipped_digest(request: Request, run: DownloadRun) -> Answer:
    """The same, and the server tells the file's digest (RFC 9530)."""
    answer = flipped(request, run)
    digest = base64.b64encode(_digest(run.old)).decode("ascii")
    return replace(answer, headers={**answer.headers, "Repr-Digest": f"sha-256=:{digest}:"})


def truncated_body(request: Request, run: DownloadRun) -> Answer:
    """Every answer breaks off after ``CUT_AFTER`` bytes."""
    answer = plan(request, run.old)
    if answer.span is None or answer.span.length <= CUT_AFTER:
        return answer
    return _closing(answer, body=(replace(answer.span, length=CUT_AFTER),))


def stall(request: Request, run: DownloadRun) -> Answer:
    """The first answer with data falls silent half way, its connection open."""
    answer = plan(request, run.old)
    if answer.span is None or not _carries_data(answer) or not run.first("data"):
        return answer
    return replace(answer, body=(replace(answer.span, length=answer.span.length // 2),), after=After.HOLD)


def drip(request: Request, run: DownloadRun) -> Answer:
    """Every answer slows down to ``DRIP_RATE``."""
    answer = plan(request, run.old)
    if answer.span is None or answer.span.length <= _DRIP_AFTER:
        return answer
    head = replace(answer.span, length=_DRIP_AFTER)
    tail = AnswerRange(head.descriptor, head.offset + _DRIP_AFTER, answer.span.length - _DRIP_AFTER, DRIP_RATE)
    return replace(answer, body=(head, tail))


def bomb(request: Request, run: DownloadRun) -> Answer:
    """Zeros, a thousandth of their size on the wire, in an encoding that nobody asked for."""
    data = bomb_file()
    headers = {"Content-Type": "audio/wav", "Content-Encoding": "gzip", "Content-Length": str(len(data))}
    return Answer(200, headers, body=() if request.method == "HEAD" else (data,))


def endless(request: Request, run: DownloadRun) -> Answer:
    """Zeros of no announced length, for ever."""
    body = () if request.method == "HEAD" else itertools.repeat(bytes(_SLICE))
    return Answer(200, {"Content-Type": "audio/wav", "Connection": "close"}, body=body, after=After.CLOSE)


def overlong_body(request: Request, run: DownloadRun) -> Answer:
    """More is announced, everywhere, than there is."""
    answer = plan(request, replace(run.old, size=run.old.size + LIE))
    if answer.span is None:
        return answer
    there = max(0, min(answer.span.length, run.old.size - answer.span.offset))
    return _closing(answer, body=(replace(answer.span, length=there),))


def too_short(request: Request, run: DownloadRun) -> Answer:
    """More bytes follow each answer than it announces; as announced, the file is ``LIE`` bytes shorter."""
    answer = plan(request, replace(run.old, size=run.old.size - LIE))
    if answer.span is None:
        return answer
    return _closing(answer, body=(replace(answer.span, length=answer.span.length + LIE),))


def negative(request: Request, run: DownloadRun) -> Answer:
    """``Content-Length: -1``."""
    answer = plan(request, run.old)
    return _closing(replace(answer, headers={**answer.headers, "Content-Length": "-1"}), body=answer.body)


FAULTS: Final[Mapping[str, Behaviour]] = {
    "": honest,
    "replaced": replaced_version,
    "replaced-and-cut": replaced_and_cut,
    "forced-200": forced_200,
    "flipped": flipped,
    "flipped-digest": flipped_digest,
    "cut": truncated_body,
    "stall": stall,
    "drip": drip,
    "bomb": bomb,
    "endless": endless,
    "too-long": overlong_body,
    "too-short": too_short,
    "negative": negative,
}


@lru_cache(maxsize=1)
def bomb_file() -> bytes:
    """``BOMB_BYTES`` zeros as a gzip file (RFC 1952), put together from one compressed block again and again."""
    compressor = zlib.compressobj(level=9, wbits=-15)
    block = compressor.compress(bytes(MIB)) + compressor.flush(zlib.Z_FULL_FLUSH)
    checksum = 0
    for _ in range(BOMB_BYTES // MIB):
        checksum = zlib.crc32(bytes(MIB), checksum)
    header = b"\x1f\x8b\x08" + bytes(6) + b"\xff"
    return header + block * (BOMB_BYTES // MIB) + compressor.flush() + struct.pack("<II", checksum, BOMB_BYTES)


@lru_cache(maxsize=8)
def _digest(source: ServedFile) -> bytes:
    return hashlib.sha256(os.pread(source.descriptor, source.size, 0)).digest()


def _carries_data(answer: Answer) -> bool:
    return answer.span is not None and answer.span.length > _PROBE


def _half_delivered(run: DownloadRun) -> bool:
    return run.delivered >= run.profile.size // 2


def _until_half(span: AnswerRange, run: DownloadRun) -> Iterator[AnswerRange]:
    for start in range(span.offset, span.offset + span.length, _SLICE):
        if _half_delivered(run):
            return
        yield replace(span, offset=start, length=min(_SLICE, span.offset + span.length - start))


def _with_flip(span: AnswerRange, place: int, run: DownloadRun) -> Iterator[AnswerRange | bytes]:
    yield replace(span, length=place - span.offset)
    # Only now: a client that has hung up before it got here has not had the wrong byte.
    byte = os.pread(span.descriptor, 1, place)[0]
    yield bytes((byte ^ 0xFF if run.first("flip") else byte,))
    yield AnswerRange(span.descriptor, place + 1, span.offset + span.length - place - 1)


def _closing(answer: Answer, body: Iterable[AnswerRange | bytes]) -> Answer:
    return replace(answer, headers={**answer.headers, "Connection": "close"}, body=body, after=After.CLOSE)
