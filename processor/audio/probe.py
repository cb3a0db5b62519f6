"""Check that a downloaded file is audio, before it is decoded and before it waits for a device."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline.files import disk_error
from pipeline.service.logs import get_logger
from processor.audio.errors import drm_protected
from processor.audio.formats.drm import drm_scheme
from processor.audio.sniff import HEAD_BYTES, sniff
from processor.audio.track import SampleFormat, open_source, open_track

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Hints:
    """Metadata that came with the file and may be wrong: the content alone decides what the file is."""

    content_type: str | None = None
    """In lower case, without parameters."""
    extension: str | None = None
    """Without a dot."""


NO_HINTS = Hints()

#: The extensions and media types that can mean one kind of container only, by ffmpeg's names of the containers.
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
#: The media types that servers send for files of unknown type.
_GENERIC = frozenset({"application/octet-stream", "binary/octet-stream", "application/force-download"})


def probe(source: Path, *, max_seconds: float, hints: Hints = NO_HINTS) -> SampleFormat:
    """Return the format that the file's header declares; log it, and the hints that contradict it.

    Raises the errors of ``examine``.
    """
    form = examine(source, max_seconds=max_seconds)
    log_format(form, hints)
    return form


def examine(source: Path, *, max_seconds: float) -> SampleFormat:
    """Return the format that the file's header declares.

    The declared length may be wrong: ``decode`` enforces the limit again. Raises PermanentError, with one code for each
    kind of file that is not audio, and InfrastructureError if the file cannot be read.
    """
    try:
        with open_source(source) as file:
            finding = sniff(file.read(HEAD_BYTES))
            if finding:
                raise finding.refusal()
            scheme = drm_scheme(file)
            if scheme:
                raise drm_protected(scheme)
        with open_track(source) as track:
            track.require_supported(max_seconds)
            return track.form
    except OSError as error:
        raise disk_error(error) from error


def log_format(form: SampleFormat, hints: Hints) -> None:
    """Log the format of a source, and the hints that contradict it."""
    log.info(
        "probed",
        container=form.container,
        codec=form.codec,
        channels=form.channels,
        sample_rate=form.sample_rate,
        seconds=form.seconds,
    )
    for hint in (hints.extension, hints.content_type):
        if hint and _contradicts(hint, form.container):
            log.warning("source_mislabelled", hint=hint, container=form.container)


def _contradicts(hint: str, container: str) -> bool:
    if hint in _CONTAINERS:
        return _CONTAINERS[hint] != container
    # An unlisted extension, or an unlisted audio or video type, may name any format. Other media types are not audio.
    family, is_media_type, _ = hint.partition("/")
    return bool(is_media_type) and family not in ("audio", "video") and hint not in _GENERIC
