"""Open a source file with ffmpeg's libraries (PyAV), without access to other files and with limited allocations."""

from __future__ import annotations

import ctypes
import errno
import functools
import os
from typing import BinaryIO, NoReturn

import av
import av._core
from av.container import InputContainer

from processor.audio.errors import audio_empty, audio_truncated, not_audio, playlist_refused
from processor.audio.formats.byte_ranges import size_of
from processor.audio.formats.declared_size import declared_size, has_sound_after_its_data

#: The allowlist of demuxers. Each of them reads one file only. Playlists and similar formats are not in it, because
#: they make ffmpeg open the files or addresses that the source names.
DEMUXERS = "wav,w64,aiff,au,caf,flac,mp3,ogg,aac,ac3,eac3,amr,ape,wv,tta,mov,matroska,asf,avi,mpegts,mpeg,flv"
#: The allowlist of decoders: those of the codecs that these containers carry. No pictures are decoded.
_DECODERS = (
    "aac,aac_latm,ac3,alac,als,amrnb,amrwb,libopencore_amrnb,libopencore_amrwb,ape,atrac3,atrac3al,"
    "atrac3plus,atrac3plusal,cook,dca,eac3,evrc,flac,g722,g723_1,g726,g726le,g729,gsm,gsm_ms,iac,ilbc,"
    "imc,libopus,mace3,mace6,mlp,mp1,mp1float,mp2,mp2float,mp3,mp3adu,mp3adufloat,mp3float,mp3on4,"
    "mp3on4float,msnsiren,nellymoser,opus,qcelp,qdm2,qdmc,real_144,real_288,s302m,sipr,speex,truehd,"
    "truespeech,tta,vorbis,wavpack,wmalossless,wmapro,wmav1,wmav2,wmavoice,adpcm_ima_dk3,adpcm_ima_dk4,"
    "adpcm_ima_qt,adpcm_ima_wav,adpcm_ms,adpcm_swf,adpcm_yamaha,pcm_alaw,pcm_bluray,pcm_dvd,pcm_f32be,"
    "pcm_f32le,pcm_f64be,pcm_f64le,pcm_mulaw,pcm_s16be,pcm_s16be_planar,pcm_s16le,pcm_s16le_planar,pcm_s24be,"
    "pcm_s24le,pcm_s24le_planar,pcm_s32be,pcm_s32le,pcm_s32le_planar,pcm_s64be,pcm_s64le,pcm_s8,"
    "pcm_s8_planar,pcm_u16be,pcm_u16le,pcm_u24be,pcm_u24le,pcm_u32be,pcm_u32le,pcm_u8"
)
DECODERS = frozenset(_DECODERS.split(","))
_OPTIONS = {"format_whitelist": DEMUXERS, "codec_whitelist": _DECODERS, "protocol_whitelist": "none"}
#: The largest single allocation, bytes. A file of a few kilobytes may declare enough samples for an index of gigabytes.
#: This limit allows an index of ten million samples.
_MAX_ALLOCATION = 256 * 1024**2


def open_container(file: BinaryIO) -> InputContainer:
    """Open ``file``; the caller closes the container.

    Raises PermanentError if the file is empty, not audio or cut off, and OSError.
    """
    if not size_of(file):
        raise audio_empty()
    _limit_allocations()
    options = _OPTIONS | {"ignore_length": "1"} if has_sound_after_its_data(file) else _OPTIONS
    file.seek(0)
    try:
        container = av.open(
            _Reader(file), mode="r", container_options=options, metadata_errors="replace", io_open=_refuse_to_open
        )
    except (av.error.FFmpegError, ValueError) as error:
        if (declared_size(file) or 0) > size_of(file):
            raise audio_truncated("its index is missing") from error
        raise not_audio("the source is not an audio file that can be read") from error
    assert isinstance(container, InputContainer)
    return container


def _refuse_to_open(url: str, flags: int, options: dict[str, str]) -> NoReturn:
    """Refuse every file that ffmpeg wants to open besides the source; no demuxer of the allowlist needs one."""
    raise playlist_refused()


@functools.cache
def _limit_allocations() -> None:
    """Make larger allocations of ffmpeg fail, for the rest of this process. PyAV has no function for this."""
    ctypes.CDLL(av._core.__file__).av_max_alloc(ctypes.c_size_t(_MAX_ALLOCATION))


class _Reader:
    """A file object for PyAV."""

    #: PyAV requires a name. The real path is not given to the demuxers.
    name = "source"

    def __init__(self, file: BinaryIO) -> None:
        self.read = file.read
        self.tell = file.tell
        self._seek = file.seek

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Return the new position or, as ffmpeg expects it, a negative error number for an invalid position.

        A damaged file can lead to an invalid position. An OSError would be taken for a failure of the local disk.
        """
        try:
            return self._seek(offset, whence)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            return -errno.EINVAL
