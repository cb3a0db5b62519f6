"""The padding behind a song that fills up its codec's last frame: left out where the file tells how much it is.

An MP4 tells it in two ways (ISO/IEC 14496-12): by the duration of the last packet (8.6.1.2), to the sample; or by the
length of the edit (8.6.6), in ticks of the film's clock. ffmpeg leaves out what is in front of an edit, and behind it
whole packets; the last one it gives in full length.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import Any

import av
import numpy as np

#: The coarsest clock of films that is in use has 600 ticks a second: by so much a length may be rounded, s.
_TICK = Fraction(1, 600)
#: PyAV fails to make a frame that has more; such a one stays as long as it is.
_MOST_PLANES = 7


def trim_padding(frames: Iterable[av.AudioFrame], end: float | None) -> Iterator[av.AudioFrame]:
    """The frames of a track that ends at ``end``, s (None: not known); the last one without what is behind the song."""
    held: av.AudioFrame | None = None
    for frame in frames:
        if held is not None:
            yield held
        held = frame
    if held is not None:
        yield _cut(held, _kept(held, end))


def _kept(frame: av.AudioFrame, end: float | None) -> int:
    """How many samples of a track's last frame belong to the song."""
    if frame.time_base is None:
        return frame.samples
    own = round(frame.duration * frame.time_base * frame.sample_rate)
    if 0 < own < frame.samples or end is None or frame.pts is None:
        return min(own or frame.samples, frame.samples)
    before_the_end = round((end - frame.pts * frame.time_base) * frame.sample_rate)
    tell = 0 < before_the_end < frame.samples - frame.sample_rate * _TICK
    return before_the_end if tell else frame.samples


def _cut(frame: av.AudioFrame, samples: int) -> av.AudioFrame:
    """The first ``samples`` of a frame."""
    channels, planar = frame.layout.nb_channels, frame.format.is_planar
    if samples >= frame.samples or (planar and channels > _MOST_PLANES):
        return frame
    values = samples if planar else samples * channels
    content: Any = np.ascontiguousarray(frame.to_ndarray()[:, :values])
    shorter = av.AudioFrame.from_ndarray(content, format=frame.format.name, layout=frame.layout.name)
    shorter.sample_rate, shorter.time_base, shorter.pts = frame.sample_rate, frame.time_base, frame.pts
    return shorter
