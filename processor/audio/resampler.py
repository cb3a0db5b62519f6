"""Convert the sample rate of a song in blocks, with libsoxr's best quality.

libsoxr's VHQ filter is flat to 0.913 of the lower rate's Nyquist frequency (20.1 kHz at 44.1 kHz), has linear phase and
attenuates everything above the Nyquist frequency below the noise of float32. docs/AUDIO.md has the measured figures.

Source: the libsoxr documentation of ``SOXR_VHQ``, https://sourceforge.net/p/soxr/wiki/Home/.
"""

from __future__ import annotations

import numpy as np
import soxr

from processor.audio.wav import Samples


def resampled_frames(frames: int, source_rate: int, target_rate: int) -> int:
    """Return the length in frames after a conversion: ``frames * target_rate / source_rate``, rounded half up.

    At least 1, if ``frames`` is not 0.
    """
    return max((2 * frames * target_rate + source_rate) // (2 * source_rate), min(frames, 1))


class Resampler:
    """Converts one stream of float32 blocks ``(frames, channels)`` in constant memory.

    The output has no delay: output frame ``n`` is at the time of input frame ``n * source_rate / target_rate``. Equal
    rates return the input unchanged.
    """

    def __init__(self, source_rate: int, target_rate: int, channels: int) -> None:
        """Rates in Hz, above 0."""
        self._source_rate, self._target_rate, self._channels = source_rate, target_rate, channels
        self._received = self._returned = 0
        self._stream = None
        if source_rate != target_rate:
            self._stream = soxr.ResampleStream(source_rate, target_rate, channels, dtype="float32", quality="VHQ")

    def process(self, block: Samples) -> Samples:
        """Return the output that the input so far determines; it may have no frames."""
        self._received += len(block)
        return self._convert(block, last=False) if len(block) else block

    def flush(self, frames: int | None = None) -> Samples:
        """Return the rest of the output, after the last block, so that the whole output has ``frames`` frames.

        The default is ``resampled_frames`` of the input. A conversion back to the original rate needs the argument,
        because the length was rounded on the way there. Beyond its end the input counts as silence.
        Raises ValueError if more than ``frames`` have been returned already.
        """
        if frames is None:
            frames = resampled_frames(self._received, self._source_rate, self._target_rate)
        missing = frames - self._returned
        if missing < 0:
            raise ValueError(f"{self._returned} frames were returned already, more than {frames}")
        # Silence after the input, enough for one output frame more than the missing ones.
        end = (frames + 1) * self._source_rate // self._target_rate + 1
        silence = np.zeros((max(end - self._received, 0), self._channels), np.float32)
        rest = self._convert(silence, last=True)[:missing]
        self._returned = frames
        return rest

    def _convert(self, block: Samples, *, last: bool) -> Samples:
        if self._stream is not None:
            block = self._stream.resample_chunk(np.ascontiguousarray(block), last=last)
        self._returned += len(block)
        return block
