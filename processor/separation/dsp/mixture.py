"""The mixture as drivers may take it: what cannot be separated is refused in the same words, whatever the model."""

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
    """The mixture, to be read. Raises ValueError if it is empty or not stereo."""
    with soundfile.SoundFile(mixture) as song:
        if song.channels != CHANNELS or not song.frames:
            raise ValueError("the mixture is not stereo, or empty")
        yield song


def require_finite(samples: Samples) -> None:
    """Raise ValueError for samples of the mixture that are no numbers."""
    if not np.isfinite(samples).all():
        raise ValueError("the mixture has samples that are no numbers")
