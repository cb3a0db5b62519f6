"""Find out how many bits the samples of a source have, and so how many its stems get by default.

The stems of a source with integer samples get its depth: 16 bits, or 24 if it has more. Float samples become 24 bits,
which is their precision. A lossy codec has no depth: its decoder returns floats, with noise of the codec that at any
usual level is far above a step of 16 bits. Its stems therefore get 16 bits, which every program reads. Only a lossy
source that peaks below ``_QUIET`` gets 24 bits, because too few steps of 16 bits would be left for it.
"""

from __future__ import annotations

from av.audio.codeccontext import AudioCodecContext

#: The peak of a lossy source, 1.0 is full scale, below which 16 bits have fewer than 12 bits left for it.
_QUIET = 2.0**-4


def source_bits(codec: AudioCodecContext) -> int | None:
    """Return 16 or 24, the depth of the codec's decoded samples; None for a lossy codec that decodes to float."""
    if codec.format.bits <= 16:
        return 16
    return 24 if codec.codec.lossless else None


def default_bits(source: int | None, peak: float) -> int:
    """Return the stems' default depth, 16 or 24, for a song with ``source_bits`` and a largest absolute sample."""
    if source is not None:
        return source
    return 24 if peak < _QUIET else 16
