"""What a download is asked for, and what it gives."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from config import MIB, DownloadSettings
from pipeline.download.progress import INTERVAL


@dataclass(frozen=True, slots=True)
class DownloadLimits:
    """How much, how long, and over how many connections. Times in s."""

    max_bytes: int
    connect_timeout: float
    """For name look-up and TCP, at each redirect again."""
    stall_timeout: float
    """For the whole head of an answer, and between any two reads of its body."""
    total_timeout: float
    """From the first look-up to the last byte, redirects and retries included."""
    chunk_bytes: int = MIB
    """Most bytes per read, and size of the write buffer."""
    progress_interval: float = INTERVAL
    """Between two progress reports."""
    max_connections: int = 1
    """At most so many at a time; how many there are depends on what helps."""
    min_piece_bytes: int = MIB
    """Least size of the pieces that the journal of a resumable download counts in."""

    @classmethod
    def from_settings(cls, settings: DownloadSettings) -> DownloadLimits:
        """The limits of a source file."""
        return cls(
            max_bytes=settings.max_audio_bytes,
            connect_timeout=settings.connect_timeout,
            stall_timeout=settings.stall_timeout,
            total_timeout=settings.download_timeout,
            chunk_bytes=settings.chunk_bytes,
            max_connections=settings.connections,
        )


@dataclass(frozen=True, slots=True)
class Downloaded:
    """A file that arrived whole."""

    path: Path
    bytes: int
    sha256: str | None
    """In hexadecimal; None if nothing asked for it to be computed."""
    content_type: str | None
    """What the server says it is, which may be wrong."""
    extension: str | None
    """What the URL or the media type says it is, without a dot; from a fixed list, fit for a file name."""
    seconds: float
    connections: int = 1
    """Most that delivered at one time."""
    resumed_bytes: int = 0
    """Bytes that were there from an earlier, interrupted download."""
    source: str = ""
    """The URL that delivered (the last of them), fit for logs."""
