"""The reasons for which a source is refused: one sentence each for the client, with advice where there is any.

``processor.audio.sniff`` has the sentences for files of other kinds.
"""

from __future__ import annotations

from pipeline.errors import ErrorCode, PermanentError


def not_audio(reason: str) -> PermanentError:
    """Return the error for a source that is not audio, or not audio of a supported kind."""
    return PermanentError(reason, code=ErrorCode.NOT_AUDIO)


def no_audio_track(*, video: bool) -> PermanentError:
    """Return the error for a source without an audio track. ``video``: it has a video track."""
    if not video:
        return not_audio("the source has no audio track")
    return PermanentError(
        "the source is a video without an audio track: give the address of one that has sound",
        code=ErrorCode.AUDIO_MISSING,
    )


def drm_protected(scheme: str) -> PermanentError:
    """Return the error for encrypted audio. ``scheme``: the name of the encryption."""
    return PermanentError(
        f"the source is protected by DRM ({scheme}) and cannot be decoded: give the address of an unprotected file",
        code=ErrorCode.AUDIO_PROTECTED,
    )


def playlist_refused() -> PermanentError:
    """Return the error for a source that makes ffmpeg open another file or address."""
    return PermanentError(
        "the source refers to other files or addresses: give the address of one file that has all of the audio",
        code=ErrorCode.SOURCE_IS_PLAYLIST,
    )


def audio_too_long(max_seconds: float) -> PermanentError:
    """Return the error for audio longer than ``max_seconds``."""
    return PermanentError(f"the audio is longer than {max_seconds:g} s", code=ErrorCode.AUDIO_TOO_LONG)


def audio_empty() -> PermanentError:
    """Return the error for a source without a single frame of audio."""
    return PermanentError("the source has no audio in it", code=ErrorCode.AUDIO_EMPTY)


def audio_truncated(reason: str) -> PermanentError:
    """Return the error for a source that ends earlier than its header declares."""
    return PermanentError(f"the source is cut off: {reason}", code=ErrorCode.AUDIO_CORRUPT)


def audio_corrupt(reason: str = "the source's audio is corrupt") -> PermanentError:
    """Return the error for audio that cannot be decoded correctly."""
    return PermanentError(reason, code=ErrorCode.AUDIO_CORRUPT)


def too_much_damage(seconds: float) -> PermanentError:
    """Return the error for audio of which ``seconds`` cannot be decoded."""
    return audio_corrupt(f"the source's audio is corrupt: {seconds:.1f} s or more of it cannot be decoded")
