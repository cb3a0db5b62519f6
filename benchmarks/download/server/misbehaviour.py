"""Faulty servers: each fault is a function from a request to a response."""

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

from benchmarks.download.run import DownloadRun
from benchmarks.download.server.answer import After, Answer, AnswerRange, Request, ServedFile, plan
from benchmarks.download.server.profile import MIB

Behaviour = Callable[[Request, DownloadRun], Answer]

CUT_AFTER: Final = 5_000_000
"""Bytes sent of each response."""
LIE: Final = 1000
"""Difference between an announced and the real length, bytes."""
BOMB_BYTES: Final = 256 * MIB
"""Decompressed size of the gzip bomb."""
DRIP_RATE: Final = 4.0
"""bytes/s."""

#: Shorter responses are probes: a fault that happens once waits for a longer one.
_PROBE = 64 * 1024
_DRIP_AFTER = 256 * 1024
_SLICE = 64 * 1024


def honest(request: Request, run: DownloadRun) -> Answer:
    """Serve the file correctly."""
    return plan(request, run.old)


def replaced_version(request: Request, run: DownloadRun) -> Answer:
    """Serve the old file in the first two responses with data, then another one of the same size.

    Two, since some clients read only the head of the first one.
    """
    answer = plan(request, run.old)
    if _carries_data(answer) and (run.first("first data") or run.first("second data")):
        return answer
    return plan(request, run.new) if run.happened("second data") else answer


def replaced_and_cut(request: Request, run: DownloadRun) -> Answer:
    """Cut all connections after half of the file, and then serve another file of the same size."""
    answer = plan(request, run.new if _half_delivered(run) else run.old)
    if _half_delivered(run) or answer.span is None:
        return answer
    return _closing(answer, body=_until_half(answer.span, run))


def forced_200(request: Request, run: DownloadRun) -> Answer:
    """Honour one range request; answer every later one with the whole file."""
    return plan(request, run.old, ranges="range" not in request.headers or run.first("range"))


def flipped(request: Request, run: DownloadRun) -> Answer:
    """Flip one byte the first time that it is delivered."""
    answer = plan(request, run.old)
    position = run.profile.size // 3
    span = answer.span
    if span is None or not span.offset <= position < span.offset + span.length:
        return answer
    return replace(answer, body=_with_flip(span, position, run))


def flipped_digest(request: Request, run: DownloadRun) -> Answer:
    """Flip one byte, and announce the digest of the file (RFC 9530)."""
    answer = flipped(request, run)
    digest = base64.b64encode(_digest(run.old)).decode("ascii")
    return replace(answer, headers={**answer.headers, "Repr-Digest": f"sha-256=:{digest}:"})


def truncated_body(request: Request, run: DownloadRun) -> Answer:
    """Cut every response after ``CUT_AFTER`` bytes."""
    answer = plan(request, run.old)
    if answer.span is None or answer.span.length <= CUT_AFTER:
        return answer
    return _closing(answer, body=(replace(answer.span, length=CUT_AFTER),))


def stall(request: Request, run: DownloadRun) -> Answer:
    """Stop sending half way through the first response with data, and keep its connection open."""
    answer = plan(request, run.old)
    if answer.span is None or not _carries_data(answer) or not run.first("data"):
        return answer
    return replace(answer, body=(replace(answer.span, length=answer.span.length // 2),), after=After.HOLD)


def drip(request: Request, run: DownloadRun) -> Answer:
    """Slow every response down to ``DRIP_RATE``."""
    answer = plan(request, run.old)
    if answer.span is None or answer.span.length <= _DRIP_AFTER:
        return answer
    head = replace(answer.span, length=_DRIP_AFTER)
    tail = AnswerRange(head.descriptor, head.offset + _DRIP_AFTER, answer.span.length - _DRIP_AFTER, DRIP_RATE)
    return replace(answer, body=(head, tail))


def bomb(request: Request, run: DownloadRun) -> Answer:
    """Send compressed zeros, 1/1000 of their size, with an encoding that was not requested."""
    data = bomb_file()
    headers = {"Content-Type": "audio/wav", "Content-Encoding": "gzip", "Content-Length": str(len(data))}
    return Answer(200, headers, body=() if request.method == "HEAD" else (data,))


def endless(request: Request, run: DownloadRun) -> Answer:
    """Send zeros endlessly, without a length."""
    body = () if request.method == "HEAD" else itertools.repeat(bytes(_SLICE))
    return Answer(200, {"Content-Type": "audio/wav", "Connection": "close"}, body=body, after=After.CLOSE)


def overlong_body(request: Request, run: DownloadRun) -> Answer:
    """Announce more bytes than are sent, in every header."""
    answer = plan(request, replace(run.old, size=run.old.size + LIE))
    if answer.span is None:
        return answer
    available = max(0, min(answer.span.length, run.old.size - answer.span.offset))
    return _closing(answer, body=(replace(answer.span, length=available),))


def too_short(request: Request, run: DownloadRun) -> Answer:
    """Send more bytes than announced; the announced file is ``LIE`` bytes shorter."""
    answer = plan(request, replace(run.old, size=run.old.size - LIE))
    if answer.span is None:
        return answer
    return _closing(answer, body=(replace(answer.span, length=answer.span.length + LIE),))


def negative(request: Request, run: DownloadRun) -> Answer:
    """Send ``Content-Length: -1``."""
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
    """Return ``BOMB_BYTES`` zeros as a gzip file (RFC 1952), built from one repeated compressed block."""
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


def _with_flip(span: AnswerRange, position: int, run: DownloadRun) -> Iterator[AnswerRange | bytes]:
    yield replace(span, length=position - span.offset)
    # Decided here: a client that disconnects earlier has not received the wrong byte.
    byte = os.pread(span.descriptor, 1, position)[0]
    yield bytes((byte ^ 0xFF if run.first("flip") else byte,))
    yield AnswerRange(span.descriptor, position + 1, span.offset + span.length - position - 1)


def _closing(answer: Answer, body: Iterable[AnswerRange | bytes]) -> Answer:
    return replace(answer, headers={**answer.headers, "Connection": "close"}, body=body, after=After.CLOSE)
