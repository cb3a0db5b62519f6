"""Remove the padding after a song, which fills its codec's last frame, where the file declares its size.

An MP4 declares it in two ways (ISO/IEC 14496-12): by the duration of the last packet (8.6.1.2), exact to the sample; or
by the length of the edit (8.6.6), in ticks of the movie's clock. ffmpeg omits the samples before an edit, and whole
packets after it, but returns the last packet in full length.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import Any

import av
import numpy as np

#: The rounding error of a length, s: the coarsest movie clock in use has 600 ticks per second.
_TICK = Fraction(1, 600)
#: PyAV fails to create a frame with more planes; such a frame keeps its full length.
_MAX_PLANES = 7


def trim_padding(frames: Iterable[av.AudioFrame], end: float | None) -> Iterator[av.AudioFrame]:
    """Yield a track's frames, the last one without its padding. ``end``: of the track, s; None if not known."""
    previous: av.AudioFrame | None = None
    for frame in frames:
        if previous is not None:
            yield previous
        previous = frame
    if previous is not None:
        yield _cut(previous, _unpadded_samples(previous, end))


def _unpadded_samples(frame: av.AudioFrame, end: float | None) -> int:
    """Return the number of samples of a track's last frame that belong to the song."""
    if frame.time_base is None:
        return frame.samples
    declared = round(frame.duration * frame.time_base * frame.sample_rate)
    if 0 < declared < frame.samples or end is None or frame.pts is None:
        return min(declared or frame.samples, frame.samples)
    until_end = round((end - frame.pts * frame.time_base) * frame.sample_rate)
    is_padded = 0 < until_end < frame.samples - frame.sample_rate * _TICK
    return until_end if is_padded else frame.samples


def _cut(frame: av.AudioFrame, samples: int) -> av.AudioFrame:
    """Return the first ``samples`` of a frame."""
    channels, planar = frame.layout.nb_channels, frame.format.is_planar
    if samples >= frame.samples or (planar and channels > _MAX_PLANES):
        return frame
    values = samples if planar else samples * channels
    content: Any = np.ascontiguousarray(frame.to_ndarray()[:, :values])
    shorter = av.AudioFrame.from_ndarray(content, format=frame.format.name, layout=frame.layout.name)
    shorter.sample_rate, shorter.time_base, shorter.pts = frame.sample_rate, frame.time_base, frame.pts
    return shorter
