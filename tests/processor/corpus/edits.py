"""Change files as transfers, disks and recorders change them."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping

import av
import numpy as np


def bit_flipped(file: bytes) -> bytes:
    """Change one bit in the middle."""
    changed = bytearray(file)
    changed[len(file) // 2] ^= 8
    return bytes(changed)


def overwritten(file: bytes) -> bytes:
    """Overwrite 64 bytes in the middle with noise."""
    middle = len(file) // 2
    return file[:middle] + np.random.default_rng(1).bytes(64) + file[middle + 64 :]


def cut(file: bytes) -> bytes:
    """Remove the second half."""
    return file[: len(file) // 2]


def with_gap(file: bytes, *, container: str, start: float, seconds: float) -> bytes:
    """Remove the packets of a part that begins ``start`` s after the first one; the time stamps stay."""

    def shift(stamp: float) -> float | None:
        return None if start <= stamp < start + seconds else 0.0

    return remuxed(file, container, shift)


def delayed(file: bytes, *, container: str, seconds: float) -> bytes:
    """Make all sound later."""
    return remuxed(file, container, lambda stamp: seconds)


def remuxed(
    file: bytes, container: str, shift: Callable[[float], float | None], options: Mapping[str, str] | None = None
) -> bytes:
    """Write the packets again. ``shift`` returns how much later each becomes, s, by its time; None drops it."""
    result = io.BytesIO()
    with (
        av.open(io.BytesIO(file), "r") as source,
        av.open(result, "w", format=container, options=dict(options or {})) as target,
    ):
        stream = source.streams.audio[0]
        copy = target.add_stream_from_template(stream)
        first: float | None = None
        for packet in source.demux(stream):
            if packet.pts is None or packet.dts is None:
                continue
            stamp = float(packet.pts * packet.time_base)
            first = stamp if first is None else first
            later = shift(stamp - first)
            if later is not None:
                packet.pts += round(later / packet.time_base)
                packet.dts += round(later / packet.time_base)
                packet.stream = copy
                target.mux(packet)
    return result.getvalue()
