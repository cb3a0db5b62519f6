"""A source file as ffmpeg's libraries (PyAV) open it: that file and no other, and no more memory than it is worth."""

from __future__ import annotations

import ctypes
import errno
import functools
import os
from typing import BinaryIO, NoReturn

import av
import av._core
from av.container import InputContainer

from processor.audio.declared_size import declared_size
from processor.audio.errors import audio_empty, audio_truncated, not_audio, playlist_refused

#: Demuxers that read one file and nothing else. Playlists and the like, which would have ffmpeg open further files or
#: addresses that the source names, are not among them.
DEMUXERS = "wav,w64,aiff,au,caf,flac,mp3,ogg,aac,ac3,eac3,amr,ape,wv,tta,mov,matroska,asf,avi,mpegts,mpeg,flv"
_OPTIONS = {"format_whitelist": DEMUXERS, "protocol_whitelist": "none"}
#: A file of a few kilobytes may claim samples enough for an index of gigabytes. This is room for ten million of them,
#: and for a picture of any size: ffmpeg looks at the first ones of a film. Bytes.
_LARGEST_ALLOCATION = 256 * 1024**2


def open_container(file: BinaryIO) -> InputContainer:
    """``file``, to be closed. Raises PermanentError for what is empty, not audio or cut off, and OSError."""
    if not size_of(file):
        raise audio_empty()
    _limit_allocations()
    try:
        container = av.open(
            _Reader(file), mode="r", container_options=_OPTIONS, metadata_errors="replace", io_open=_refuse_to_open
        )
    except (av.error.FFmpegError, ValueError) as error:
        if (declared_size(file) or 0) > size_of(file):
            raise audio_truncated("its index is missing") from error
        raise not_audio("the source is not an audio file that can be read") from error
    assert isinstance(container, InputContainer)
    return container


def size_of(file: BinaryIO) -> int:
    """In bytes."""
    return os.fstat(file.fileno()).st_size


def _refuse_to_open(url: str, flags: int, options: dict[str, str]) -> NoReturn:
    """What ffmpeg calls for every file but the source: no demuxer on the list needs one."""
    raise playlist_refused()


@functools.cache
def _limit_allocations() -> None:
    """Have ffmpeg fail instead of taking more at a time; of this process, and for good. PyAV has no way to say so."""
    ctypes.CDLL(av._core.__file__).av_max_alloc(ctypes.c_size_t(_LARGEST_ALLOCATION))


class _Reader:
    """A file as ffmpeg reads it, by way of PyAV."""

    #: Instead of the path, which is none of the demuxers' business.
    name = "source"

    def __init__(self, file: BinaryIO) -> None:
        self.read = file.read
        self.tell = file.tell
        self._seek = file.seek

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """The new position; a negative error number, as ffmpeg has it, for one that cannot be.

        A damaged file can send its reader to such a place. An exception would look like trouble with our disk.
        """
        try:
            return self._seek(offset, whence)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            return -errno.EINVAL
