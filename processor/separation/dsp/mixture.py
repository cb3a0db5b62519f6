"""Access to the mixture, with the same checks and error messages for every model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import soundfile

from processor.audio.wav import Samples

CHANNELS = 2


@contextmanager
def open_mixture(mixture: Path) -> Iterator[soundfile.SoundFile]:
    """Open the mixture for reading. Raises ValueError if it is empty or not stereo."""
    with soundfile.SoundFile(mixture) as song:
        if song.channels != CHANNELS or not song.frames:
            raise ValueError("the mixture is not stereo, or empty")
        yield song


def require_finite(samples: Samples) -> None:
    """Raise ValueError if a sample of the mixture is NaN or infinite."""
    if not np.isfinite(samples).all():
        raise ValueError("the mixture has samples that are not finite")
