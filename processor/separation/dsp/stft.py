"""The short-time Fourier transform of MDX networks and its inverse, on the device of the segments.

Equals audio-separator's ``STFT`` (``torch.stft`` and ``istft`` with a periodic Hann window, centred frames, reflected
ends), bit for bit on a CPU. The steps of both are performed one by one in buffers that are reused: to allocate and free
tens of MB per segment takes longer than the transforms. The sum of the squared windows does not depend on the segment
and is computed once.
"""

from __future__ import annotations

import torch
from torch import Tensor

#: The lowest bins, up to 32 Hz, are set to zero in the input of every MDX network.
MUTED_BINS = 3


class Stft:
    """The transform of one model. Tensors are float32. What a method returns is valid until the next call."""

    def __init__(self, n_fft: int, hop: int, bins: int, device: torch.device) -> None:
        """``n_fft``, ``hop``: frames. ``bins``: how many of the lowest bins the network takes."""
        self._n_fft, self._hop, self._bins = n_fft, hop, bins
        self._window = torch.hann_window(n_fft, periodic=True).to(device)
        self._shape: tuple[int, int] | None = None

    def forward(self, waves: Tensor) -> Tensor:
        """Transform ``(batch, channels, frames)`` to ``(batch, channels * 2, bins, times)``.

        Real and imaginary parts alternate along the second axis.
        """
        batch, channels, frames = waves.shape
        rows, times = batch * channels, 1 + frames // self._hop
        self._allocate(rows, times)
        # Reflect the ends by half a transform.
        waves, half = waves.reshape(-1, frames), self._n_fft // 2
        self._padded[:, half : half + frames] = waves
        self._padded[:, :half] = waves[:, 1 : half + 1].flip(1)
        self._padded[:, half + frames :] = waves[:, -half - 1 : -1].flip(1)
        torch.mul(self._padded.unfold(1, self._n_fft, self._hop), self._window, out=self._windowed)
        torch.fft.rfft(self._windowed, out=self._spectrum)
        visible = self._spectrum[..., : self._bins].transpose(1, 2)
        self._parts[:, 0], self._parts[:, 1] = visible.real, visible.imag
        self._parts[:, :, :MUTED_BINS] = 0.0
        return self._parts.view(batch, channels * 2, self._bins, times)

    def inverse(self, spectra: Tensor) -> Tensor:
        """Transform ``(batch, channels * 2, bins, times)`` to ``(batch, channels, frames)``."""
        batch, parts, bins, times = spectra.shape
        rows = batch * parts // 2
        self._allocate(rows, times)
        pairs = spectra.reshape(rows, 2, bins, times).transpose(2, 3)
        visible = self._network_spectrum[..., :bins]
        visible.real[:], visible.imag[:] = pairs[:, 0], pairs[:, 1]
        torch.fft.irfft(self._network_spectrum, n=self._n_fft, out=self._windowed)
        torch.mul(self._windowed, self._window, out=self._frames.flatten(2)[..., : self._n_fft])
        return (self._overlap_add() / self._envelope).view(batch, parts // 2, -1)

    def _allocate(self, rows: int, times: int) -> None:
        """Allocate the buffers for ``rows`` channels of ``times`` frames, unless they have these sizes already.

        There is one set of buffers: after memory has run out and batches have become smaller, the buffers of the larger
        batches must be freed. The old set is freed first, because both sets may not fit.
        """
        if self._shape == (rows, times):
            return
        empty = self._window.new_zeros(0)
        self._padded = self._frames = self._network_spectrum = self._spectrum = empty
        self._parts = self._windowed = self._sum = self._envelope = empty
        self._shape = None
        zeros, n_fft = self._window.new_zeros, self._n_fft
        hops = -(-n_fft // self._hop)
        self._padded = zeros(rows, n_fft + self._hop * (times - 1))
        #: Each frame of the inverse transform, in a whole number of hops.
        self._frames = zeros(rows, times, hops, self._hop)
        #: The network's output. Bins that the network does not have stay zero.
        self._network_spectrum = torch.view_as_complex(zeros(rows, times, n_fft // 2 + 1, 2))
        self._spectrum = torch.view_as_complex(zeros(rows, times, n_fft // 2 + 1, 2))
        self._parts = zeros(rows, 2, self._bins, times)
        self._windowed = zeros(rows, times, n_fft)
        self._sum = zeros(rows, times + hops - 1, self._hop)
        self._frames.flatten(2)[..., :n_fft] = self._window.square()
        self._envelope = self._overlap_add()[:1].clone()
        self._shape = rows, times

    def _overlap_add(self) -> Tensor:
        """Add the frames up in order, each one hop later than the previous one; return the sum without the padding."""
        times, hops = self._frames.shape[1:3]
        self._sum.zero_()
        for piece in reversed(range(hops)):
            self._sum[:, piece : piece + times] += self._frames[:, :, piece]
        start = self._n_fft // 2
        return self._sum.flatten(1)[:, start : start + self._hop * (times - 1)]
