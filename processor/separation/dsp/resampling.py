"""Another sample rate, piece by piece, as librosa gives it for the whole song.

Arrays are ``(channels, samples)``, and keep their type.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import librosa
import numpy as np
import soxr

from processor.separation.dsp.streaming import Array, StreamingTransform

#: How far the filters reach to either side, in samples of the lower of the two rates, by the beginning of librosa's
#: name: ``scipy.signal.resample_poly`` takes 10, resampy's tables have 24 and 50 zero crossings.
_REACH = {"polyphase": 10, "kaiser_fast": 24, "kaiser_best": 50}


class Resampler(Protocol):
    """Another rate for one song."""

    def push(self, piece: Array, *, last: bool = False) -> Array:
        """The next of the output; with the ``last`` piece all the rest: ``ceil(samples * ratio)`` in all."""


def resampler(rate: int, target: int, kind: str) -> Resampler:
    """From ``rate`` to ``target``, Hz; ``kind`` is librosa's ``res_type``.

    Raises ValueError for a kind that is not known here, and OSError where libsamplerate is needed and not installed.
    """
    if rate == target:
        return _Unchanged()
    if kind.startswith("sinc_"):
        return _Sized(target / rate, _Libsamplerate(target / rate, kind))
    if kind.startswith("soxr_"):
        return _Sized(target / rate, _Soxr(rate, target, kind))
    if kind not in _REACH:
        raise ValueError(f"no resampler {kind}")
    return _Sized(target / rate, _blockwise(rate, target, kind))


def _blockwise(rate: int, target: int, kind: str) -> StreamingTransform:
    common = math.gcd(rate, target)
    down, up = rate // common, target // common
    reach = 1 + math.ceil(_REACH[kind] * max(up, down) / (up * down))

    def resampled(block: Array) -> Array:
        output: Array = librosa.resample(block, orig_sr=rate, target_sr=target, res_type=kind)
        return output

    return StreamingTransform(resampled, (down, up), reach)


class _Unchanged:
    def push(self, piece: Array, *, last: bool = False) -> Array:
        return piece


class _Sized:
    """Gives the output the length that librosa gives it, with zeros where the resampler comes to an end before."""

    def __init__(self, ratio: float, inner: Resampler) -> None:
        self._ratio = ratio
        self._inner = inner
        self._taken = self._given = 0

    def push(self, piece: Array, *, last: bool = False) -> Array:
        output = self._inner.push(piece, last=last)
        self._taken += piece.shape[-1]
        if last:
            output = librosa.util.fix_length(output, size=math.ceil(self._taken * self._ratio) - self._given)
        self._given += output.shape[-1]
        return output


class _Soxr:
    """Its stream gives the bits that it gives of the whole."""

    def __init__(self, rate: int, target: int, kind: str) -> None:
        self._rates, self._kind = (rate, target), kind
        self._stream: Any = None

    def push(self, piece: Array, *, last: bool = False) -> Array:
        if self._stream is None:
            self._stream = soxr.ResampleStream(*self._rates, len(piece), str(piece.dtype), self._kind)
        output: Array = self._stream.resample_chunk(np.ascontiguousarray(piece.T), last=last)
        return output.T


class _Libsamplerate:
    """One converter for each channel, over the whole song.

    In blocks it would not do: the library adds up positions, and their rounding decides on which side of a sample its
    filter is centred, which is heard at 65 dB.
    """

    def __init__(self, ratio: float, kind: str) -> None:
        self._ratio = ratio
        self._kind = kind
        self._channels: list[_Channel] | None = None
        self._taken = self._given = 0

    def push(self, piece: Array, *, last: bool = False) -> Array:
        if self._channels is None:
            self._channels = [_Channel(self._ratio, self._kind) for _ in piece]
        rows = [channel.push(row, last=last) for channel, row in zip(self._channels, piece, strict=True)]
        self._taken += piece.shape[-1]
        room = int(self._taken * self._ratio) - self._given
        output = np.stack(rows)[:, : room if last else None]
        self._given += output.shape[-1]
        return output.astype(piece.dtype, copy=False)


class _Channel:
    def __init__(self, ratio: float, kind: str) -> None:
        # Not at import: few models need it, and on Linux it is the system that has to have it.
        from samplerate import converters, lowlevel

        self._lowlevel: Any = lowlevel
        self._ratio = ratio
        state, error = lowlevel.src_new(converters.ConverterType[kind].value, 1)
        self._check(error)
        self._state = lowlevel.ffi.gc(state, lowlevel.src_delete)

    def push(self, row: Array, *, last: bool) -> Array:
        rest = np.ascontiguousarray(row, np.float32)
        room = np.empty(math.ceil(len(rest) * self._ratio) + 1024, np.float32)
        parts = []
        while True:
            error, used, made = self._lowlevel.src_process(self._state, rest, room, self._ratio, last)
            self._check(error)
            parts.append(room[:made].copy())
            rest = rest[used:]
            if not used and not made:
                return np.concatenate(parts)

    def _check(self, error: int) -> None:
        if error:
            raise RuntimeError(f"libsamplerate: {self._lowlevel.src_strerror(error)}")
