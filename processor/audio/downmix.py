"""Convert decoded frames to stereo in 32-bit float.

Source of the weights: Recommendation ITU-R BS.775-3, annex 4, table 2. Channels that it does not know, such as those
above the listener, have the weight of the surround channels.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import av
import numpy as np
from av.audio.resampler import AudioResampler
from numpy.typing import NDArray

from processor.audio.wav import Samples

_HALF_POWER = math.sqrt(0.5)
#: The weights in the left and the right channel, by ffmpeg's names of the channels.
_WEIGHTS: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("FL", "FLC", "DL"), (1.0, 0.0)),
    **dict.fromkeys(("FR", "FRC", "DR"), (0.0, 1.0)),
    **dict.fromkeys(("FC", "BC", "TC", "TFC", "TBC", "BFC"), (_HALF_POWER, _HALF_POWER)),
    **dict.fromkeys(("BL", "SL", "WL", "SDL", "TFL", "TBL", "TSL", "BFL"), (_HALF_POWER, 0.0)),
    **dict.fromkeys(("BR", "SR", "WR", "SDR", "TFR", "TBR", "TSR", "BFR"), (0.0, _HALF_POWER)),
    **dict.fromkeys(("LFE", "LFE2"), (0.0, 0.0)),
}
#: The usual order of channels whose positions a file does not declare. The fourth one of six or more usually is the
#: low-frequency channel, but may be any: it is mixed in like a centre channel.
_USUAL_ORDER = {
    3: "FL FR FC",
    4: "FL FR BL BR",
    5: "FL FR FC BL BR",
    6: "FL FR FC FC BL BR",
    7: "FL FR FC FC BC SL SR",
    8: "FL FR FC FC BL BR SL SR",
}
#: The number of planes that PyAV can read: with eight it reads beyond the end of ffmpeg's list of them.
_MAX_PLANES = 7


def to_stereo(frame: av.AudioFrame) -> Samples:
    """Return the samples ``(frames, 2)`` of a frame in any sample format and channel layout; 1.0 is full scale."""
    samples = _to_float(frame)
    channels = samples.shape[1]
    if channels == 1:
        return np.repeat(samples, 2, axis=1)
    if channels == 2:
        return samples
    return samples @ _matrix(tuple(channel.name for channel in frame.layout.channels))


def _to_float(frame: av.AudioFrame) -> Samples:
    """Return the samples ``(frames, channels)``."""
    channels = frame.layout.nb_channels
    depth = frame.format.name.removesuffix("p")
    if depth not in _SCALES or (frame.format.is_planar and channels > _MAX_PLANES):
        frame = AudioResampler("flt", frame.layout, frame.sample_rate).resample(frame)[0]
        depth = "flt"
    content: NDArray[Any] = frame.to_ndarray()
    samples = content.T if frame.format.is_planar else content.reshape(-1, channels)
    with np.errstate(over="ignore"):  # a sample beyond float32 becomes infinite, and the source is refused
        scaled: Samples = _SCALES[depth](samples)
    return scaled


def _scaled(full_scale: float, offset: float = 0.0) -> Any:
    def convert(samples: NDArray[Any]) -> Samples:
        scaled: Samples = (samples.astype(np.float32) - np.float32(offset)) * np.float32(1 / full_scale)
        return scaled

    return convert


_SCALES = {
    "u8": _scaled(2**7, 2**7),
    "s16": _scaled(2**15),
    "s32": _scaled(2**31),
    "flt": lambda samples: np.ascontiguousarray(samples, np.float32),
    "dbl": lambda samples: np.ascontiguousarray(samples, np.float32),
}


@functools.lru_cache(maxsize=16)
def _matrix(names: Sequence[str]) -> Samples:
    """Return the weights ``(channels, 2)``."""
    channels = len(names)
    if not all(name in _WEIGHTS for name in names):
        names = _USUAL_ORDER.get(channels, "").split()
    # More than eight channels without positions are taken for pairs of left and right ones.
    weights = [_WEIGHTS[name] for name in names] or _pairs(channels)
    return np.array(weights, np.float32)


def _pairs(channels: int) -> list[tuple[float, float]]:
    sides = [(1.0, 0.0), (0.0, 1.0)] * (channels // 2)
    return [*sides, (_HALF_POWER, _HALF_POWER)][:channels]
