"""A download over one connection, from start to end."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pipeline.download.checksum import Checksum, announced_checksum
from pipeline.download.http import response as http_response
from pipeline.download.http.request import ResponseStream
from pipeline.download.http.response import Head
from pipeline.download.part_file import PartFile, require_room
from pipeline.download.progress import ProgressReporter
from pipeline.download.types import DownloadLimits

#: Bytes between two checks of the free disk space.
_ROOM_BYTES: Final = 64 * 1024**2


@dataclass(frozen=True, slots=True)
class StreamResult:
    """The result of one download strategy."""

    head: Head
    bytes: int
    sha256: str | None
    connections: int = 1
    resumed_bytes: int = 0


def save_stream(
    stream: ResponseStream,
    head: Head,
    target: Path,
    limits: DownloadLimits,
    reporter: ProgressReporter,
    *,
    checksum: Checksum | None,
    durable: bool,
) -> StreamResult:
    """Write the whole body of ``stream`` to ``target``. ``durable``: the file then survives a power cut.

    Raises the same errors as ``download``.
    """
    subject = stream.source.subject
    checksum = checksum or announced_checksum(stream.response.headers, whole_file=True)
    digest = checksum.new() if checksum else None
    received = room_checked = 0
    require_room(target.parent, head.length or 0)
    file = PartFile(target, None)
    try:
        for chunk in stream.chunks(head.length, limits.chunk_bytes):
            if received + len(chunk) > limits.max_bytes:
                raise http_response.source_too_large(subject, limits.max_bytes)
            file.write(received, memoryview(chunk))
            received += len(chunk)
            if digest:
                digest.update(chunk)
            reporter.update(received)
            if received - room_checked > _ROOM_BYTES:
                room_checked = received
                require_room(target.parent, head.length - received if head.length else limits.chunk_bytes)
        if not received:
            raise http_response.source_empty(subject)
        if checksum and digest and not checksum.matches(digest.hexdigest()):
            raise http_response.source_corrupt(subject)
        reporter.finish(received)
        stream.watchdog.raise_if_fired()  # a socket that was shut down can look like the end of the body
        file.commit(durable=durable)
    finally:
        file.discard()
    sha256 = digest.hexdigest() if digest and checksum and checksum.algorithm == "sha256" else None
    return StreamResult(head, received, sha256)
