"""The limits and the result of a download."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from config import MIB, DownloadSettings
from pipeline.download.progress import INTERVAL


@dataclass(frozen=True, slots=True)
class DownloadLimits:
    """Limits on size, time (s) and connections of one download."""

    max_bytes: int
    connect_timeout: float
    """For name resolution and TCP, again at each redirect."""
    stall_timeout: float
    """For the whole response head, and between two reads of the body."""
    total_timeout: float
    """From the first name resolution to the last byte, redirects and retries included."""
    chunk_bytes: int = MIB
    """Maximum bytes per read."""
    progress_interval: float = INTERVAL
    """Time between two progress reports."""
    max_connections: int = 1
    """Maximum connections at a time; the number used depends on the gain that each of them brings."""
    min_piece_bytes: int = MIB
    """Minimum size of the pieces in the journal of a resumable download."""

    @classmethod
    def from_settings(cls, settings: DownloadSettings) -> DownloadLimits:
        """Return the limits for an audio file of a client."""
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
    """A completely downloaded file."""

    path: Path
    bytes: int
    sha256: str | None
    """In hexadecimal; None if no SHA-256 was computed."""
    content_type: str | None
    """Media type sent by the server, which may be wrong."""
    extension: str | None
    """File extension from the URL or the media type, without a dot; from a fixed list, safe in a file name."""
    seconds: float
    connections: int = 1
    """Maximum connections that delivered at the same time."""
    resumed_bytes: int = 0
    """Bytes kept from an earlier, interrupted download."""
    source: str = ""
    """The URL that delivered the last bytes, safe for logs."""
