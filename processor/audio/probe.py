"""Is it audio? Asked of a downloaded file before anything is decoded, and before the device sees it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline.files import disk_error
from pipeline.service.logs import get_logger
from processor.audio.drm import drm_scheme
from processor.audio.errors import drm_protected
from processor.audio.sniff import HEAD_BYTES, sniff
from processor.audio.track import SampleFormat, open_track

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Hints:
    """What came with the file, and may be wrong: what the file is, its content alone decides."""

    content_type: str | None = None
    """In lower case, without parameters."""
    extension: str | None = None
    """Without a dot."""


NO_HINTS = Hints()

#: Extensions and media types that can only mean one kind of container, by ffmpeg's names for those.
_NAMES = {
    "aac": "aac audio/aac audio/aacp",
    "aiff": "aif aiff audio/aiff audio/x-aiff",
    "asf": "wma audio/x-ms-wma",
    "flac": "flac audio/flac audio/x-flac",
    "matroska": "mka mkv webm audio/webm video/webm video/x-matroska",
    "mov": "m4a m4b m4v mov mp4 audio/mp4 audio/x-m4a video/mp4 video/quicktime",
    "mp3": "mp2 mp3 audio/mpeg audio/mp3",
    "ogg": "oga ogg ogv opus audio/ogg audio/opus application/ogg video/ogg",
    "wav": "wav audio/wav audio/wave audio/x-wav audio/vnd.wave",
}
_CONTAINERS = {hint: container for container, hints in _NAMES.items() for hint in hints.split()}
#: Servers that know no better call everything this.
_UNDECIDED = frozenset({"application/octet-stream", "binary/octet-stream", "application/force-download"})


def probe(source: Path, *, max_seconds: float, hints: Hints = NO_HINTS) -> SampleFormat:
    """What the file's header says of its audio; hints that do not fit it are logged.

    The header may lie about the length: ``decode`` keeps to the limit all the same. Raises PermanentError, with a code
    for each of what may have come in place of audio, and InfrastructureError if the file cannot be read.
    """
    try:
        _refuse_others(source)
        with open_track(source) as track:
            track.require_form(max_seconds)
            form = track.form
    except OSError as error:
        raise disk_error(error) from error
    log.info(
        "probed",
        container=form.container,
        codec=form.codec,
        channels=form.channels,
        sample_rate=form.sample_rate,
        seconds=form.seconds,
    )
    for hint in misleading(hints, form.container):
        log.warning("source_mislabelled", hint=hint, container=form.container)
    return form


def misleading(hints: Hints, container: str) -> list[str]:
    """Those of the hints that ``container`` contradicts."""
    given = [hints.extension, hints.content_type]
    return [hint for hint in given if hint and not _fits(hint, container)]


def _fits(hint: str, container: str) -> bool:
    if hint in _CONTAINERS:
        return _CONTAINERS[hint] == container
    # What is not in the table may be a name for any kind of sound; of the others it is none.
    family, is_media_type, _ = hint.partition("/")
    return not is_media_type or family in ("audio", "video") or hint in _UNDECIDED


def _refuse_others(source: Path) -> None:
    with source.open("rb") as file:
        finding = sniff(file.read(HEAD_BYTES))
        if finding:
            raise finding.refusal()
        scheme = drm_scheme(file)
        if scheme:
            raise drm_protected(scheme)
