"""Choose the depth of the stems for a client that does not name one.

The stems of a source with integer samples get its depth: 16 bits, or 24 if it has more. Float samples become 24 bits,
which is their precision. A lossy codec has no depth: its decoder returns floats, with noise of the codec that at any
usual level is far above a step of 16 bits. Its stems therefore get 16 bits, which every program reads. Only a lossy
source that peaks below ``QUIET`` gets 24 bits, because too few steps of 16 bits would be left for it.
"""

from __future__ import annotations

#: The peak of a lossy source, 1.0 is full scale, below which 16 bits have fewer than 12 bits left for it.
QUIET = 2.0**-4


def stem_depth(bit_depth: int | None, peak: float) -> int:
    """Return 16 or 24 for a source of ``bit_depth``, None if it is lossy, whose largest absolute sample is ``peak``."""
    if bit_depth is None:
        return 24 if peak < QUIET else 16
    return 24 if bit_depth > 16 else 16
