"""Why a source cannot be separated: one sentence for the client each, and where there is something to do, what.

What is no audio at all is told apart in ``processor.audio.sniff``.
"""

from __future__ import annotations

from pipeline.errors import ErrorCode, PermanentError


def not_audio(why: str) -> PermanentError:
    return PermanentError(why, code=ErrorCode.NOT_AUDIO)


def no_audio_track(*, video: bool) -> PermanentError:
    """``video``: whether there are pictures instead."""
    if not video:
        return not_audio("the source has no audio track")
    return PermanentError(
        "the source is a video without an audio track: give the address of one that has sound",
        code=ErrorCode.AUDIO_MISSING,
    )


def drm_protected(scheme: str) -> PermanentError:
    return PermanentError(
        f"the source is protected by DRM ({scheme}) and cannot be decoded: give the address of an unprotected file",
        code=ErrorCode.AUDIO_PROTECTED,
    )


def playlist_refused() -> PermanentError:
    return PermanentError(
        "the source refers to other files or addresses: give the address of one file that has all of the audio",
        code=ErrorCode.SOURCE_IS_PLAYLIST,
    )


def audio_too_long(max_seconds: float) -> PermanentError:
    return PermanentError(f"the audio is longer than {max_seconds:g} s", code=ErrorCode.AUDIO_TOO_LONG)


def audio_empty() -> PermanentError:
    return PermanentError("the source has no audio in it", code=ErrorCode.AUDIO_EMPTY)


def audio_truncated(why: str) -> PermanentError:
    return PermanentError(f"the source is cut off: {why}", code=ErrorCode.AUDIO_CORRUPT)


def audio_corrupt(why: str = "the source's audio is corrupt") -> PermanentError:
    return PermanentError(why, code=ErrorCode.AUDIO_CORRUPT)
