"""Streaming sample-rate conversion with the same output as librosa's for the whole song.

Arrays are ``(channels, samples)``. The output has the input's dtype.
"""

from __future__ import annotations

import math
from typing import Any

import librosa
import numpy as np
import samplerate
import soxr

from processor.separation.dsp.streaming import Array, StreamingTransform

#: The reach of the filters to either side, in samples of the lower of the two rates, by the beginning of librosa's
#: name: ``scipy.signal.resample_poly`` takes 10, resampy's tables have 24 and 50 zero crossings.
_REACH = {"polyphase": 10, "kaiser_fast": 24, "kaiser_best": 50}


#: More frames than any of libsamplerate's filters reaches, at the lower of the two rates.
_SILENCE = 1024


class LibrosaResampler:
    """Converts the sample rate of one song."""

    def __init__(self, rate: int, target: int, kind: str) -> None:
        """Convert from ``rate`` to ``target``, Hz. ``kind`` is librosa's ``res_type``.

        Raises ValueError for an unknown kind.
        """
        self._ratio = target / rate
        self._received = self._returned = 0
        self._converter: StreamingTransform | _SoxrConverter | _SamplerateConverter | None
        if rate == target:
            self._converter = None
        elif kind.startswith("sinc_"):
            self._converter = _SamplerateConverter(self._ratio, kind)
        elif kind.startswith("soxr_"):
            self._converter = _SoxrConverter(rate, target, kind)
        elif kind in _REACH:
            common = math.gcd(rate, target)
            down, up = rate // common, target // common
            reach = 1 + math.ceil(_REACH[kind] * max(up, down) / (up * down))
            self._converter = StreamingTransform(
                lambda block: librosa.resample(block, orig_sr=rate, target_sr=target, res_type=kind), (down, up), reach
            )
        else:
            raise ValueError(f"unknown resampler: {kind}")

    def push(self, piece: Array, *, last: bool = False) -> Array:
        """Return the next output; with the ``last`` piece, all the rest.

        The total length is librosa's, ``ceil(samples * ratio)``: where the converter returns less, zeros follow.
        """
        if self._converter is None:
            return piece
        output = self._converter.push(piece, last=last)
        self._received += piece.shape[-1]
        if last:
            output = librosa.util.fix_length(output, size=math.ceil(self._received * self._ratio) - self._returned)
        self._returned += output.shape[-1]
        return output


class _SoxrConverter:
    """Runs soxr's stream, whose output equals soxr's output for the whole song bit for bit."""

    def __init__(self, rate: int, target: int, kind: str) -> None:
        self._rates, self._kind = (rate, target), kind
        self._stream: Any = None

    def push(self, piece: Array, *, last: bool = False) -> Array:
        if self._stream is None:
            self._stream = soxr.ResampleStream(*self._rates, len(piece), str(piece.dtype), self._kind)
        output: Array = self._stream.resample_chunk(np.ascontiguousarray(piece.T), last=last)
        return output.T


class _SamplerateConverter:
    """Runs one libsamplerate converter per channel over the whole song.

    Independent blocks are not possible: the library adds up positions, and their rounding decides on which side of a
    sample its filter is centred, which makes a difference of 65 dB.
    """

    def __init__(self, ratio: float, kind: str) -> None:
        self._ratio, self._kind = ratio, kind
        self._converters: list[Any] | None = None
        self._received = self._returned = 0

    def push(self, piece: Array, *, last: bool = False) -> Array:
        if self._converters is None:
            self._converters = [samplerate.Resampler(self._kind, 1) for _ in piece]
        self._received += piece.shape[-1]
        if last:
            # The library itself continues a song with zeros, but returns no more of its end than fits into a block.
            silence = math.ceil(_SILENCE / min(1.0, self._ratio))
            piece = np.pad(piece, ((0, 0), (0, silence)))
        rows = [
            converter.process(np.ascontiguousarray(row, np.float32), self._ratio, end_of_input=False)
            for converter, row in zip(self._converters, piece, strict=True)
        ]
        remaining = int(self._received * self._ratio) - self._returned
        output = np.stack(rows)[:, : remaining if last else None]
        self._returned += output.shape[-1]
        return output.astype(piece.dtype, copy=False)
