"""From a song through a network that separates samples back to a song, segment by segment."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from torch import Tensor

from processor.drivers import OnProgress
from processor.drivers.batches import Sent, batches
from processor.drivers.cuts import Cut
from processor.drivers.lane import Fetched, Lane
from processor.drivers.segments import OverlapAdd, segments


def overlap_added(
    song: soundfile.SoundFile,
    cut: Cut,
    network: Callable[[Tensor], Tensor | Sequence[Tensor]],
    lane: Lane,
    device: torch.device,
    on_progress: OnProgress,
    *,
    batch: int,
    stems: tuple[int, ...] = (),
) -> Generator[NDArray[np.float32], None, None]:
    """What ``network`` makes of the song, in blocks ``(*stems, channels, frames)``, in order.

    ``network`` takes segments ``(batch, channels, frames)`` on ``device`` and gives ``(*stems, channels, frames)`` for
    each of them. To be closed. Raises what reading, ``network`` and ``on_progress`` raise.
    """
    total = OverlapAdd(cut, stems, lambda array: torch.from_numpy(array).to(device))

    @torch.inference_mode()
    def run(sent: Sent) -> Fetched:
        count, arrived = sent
        blocks = [total.add(segment) for segment in network(arrived())[:count]]
        return lane.fetch(torch.cat(blocks, dim=-1))

    on_progress(0.0)
    with closing(lane.map(run, batches(segments(song, cut), batch, lane))) as results:
        for number, fetched in enumerate(results, 1):
            yield fetched()
            on_progress(min(1.0, number * batch / cut.count))
