"""Streaming of a song through a network that maps samples to samples, one batch of segments at a time."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from torch import Tensor

from processor.separation.dsp.overlap_add import OverlapAdd, read_segments
from processor.separation.dsp.segmentation import Segmentation
from processor.separation.runtime.batching import UploadedBatch, upload_batches
from processor.separation.runtime.device_transfer import DeviceTransfer, Download
from processor.separation.separator import OnProgress


def separate_segmentwise(
    song: soundfile.SoundFile,
    segmentation: Segmentation,
    network: Callable[[Tensor], Tensor | Sequence[Tensor]],
    transfer: DeviceTransfer,
    device: torch.device,
    on_progress: OnProgress,
    *,
    batch: int,
    stems: tuple[int, ...] = (),
) -> Generator[NDArray[np.float32], None, None]:
    """Yield the output of ``network`` for the whole song, in consecutive blocks ``(*stems, channels, frames)``.

    ``network`` takes segments ``(batch, channels, frames)`` on ``device`` and returns ``(*stems, channels, frames)``
    for each of them. The caller must close the generator. Raises what reading, ``network`` and ``on_progress`` raise.
    """
    overlap_add = OverlapAdd(segmentation, stems, lambda array: torch.from_numpy(array).to(device))

    @torch.inference_mode()
    def run(uploaded: UploadedBatch) -> Download:
        count, on_device = uploaded
        blocks = [overlap_add.add(segment) for segment in network(on_device())[:count]]
        return transfer.download(torch.cat(blocks, dim=-1))

    on_progress(0.0)
    uploads = upload_batches(read_segments(song, segmentation), batch, transfer)
    with closing(transfer.map(run, uploads)) as downloads:
        for number, download in enumerate(downloads, 1):
            yield download()
            on_progress(min(1.0, number * batch / segmentation.count))
