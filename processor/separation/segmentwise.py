"""From a song through a network that separates samples back to a song, segment by segment."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from torch import Tensor

from processor.separation.dsp.overlap_add import OverlapAdd, segments
from processor.separation.dsp.segmentation import Segmentation
from processor.separation.runtime.batching import Sent, batches
from processor.separation.runtime.device_transfer import DeviceTransfer, Fetched
from processor.separation.separator import OnProgress


def separate_segmentwise(
    song: soundfile.SoundFile,
    cut: Segmentation,
    network: Callable[[Tensor], Tensor | Sequence[Tensor]],
    lane: DeviceTransfer,
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
