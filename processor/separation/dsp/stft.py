"""Segments to spectra and back, as MDX networks know them, on the device that they are on.

What audio-separator's ``STFT`` gives (``torch.stft`` and ``istft`` with a periodic Hann window, frames centred, the
ends reflected), to the bit on a CPU. The steps of both are taken one by one, in buffers that stay: to have the system
give and take back tens of MB for each segment takes longer than the transforms. What does not depend on the segment,
the sum of the squared windows, is added up once.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

#: The lowest bins, up to 32 Hz, are kept from every MDX network.
MUTED_BINS = 3


@dataclass(slots=True)
class _Room:
    """For ``rows`` channels of ``times`` frames of ``n_fft``; a frame is kept in whole hops."""

    rows: int
    times: int
    n_fft: int
    hop: int
    bins: int
    window: Tensor
    padded: Tensor = field(init=False)
    frames: Tensor = field(init=False)
    spectrum: Tensor = field(init=False)
    """Beyond the bins that a network has, zero."""
    whole: Tensor = field(init=False)
    """The spectrum of what goes in."""
    parts: Tensor = field(init=False)
    inverted: Tensor = field(init=False)
    total: Tensor = field(init=False)
    envelope: Tensor = field(init=False)

    def __post_init__(self) -> None:
        new, rows, times = self.window.new_zeros, self.rows, self.times
        hops = -(-self.n_fft // self.hop)
        self.padded = new(rows, self.n_fft + self.hop * (times - 1))
        self.frames = new(rows, times, hops, self.hop)
        self.spectrum = torch.view_as_complex(new(rows, times, self.n_fft // 2 + 1, 2))
        self.whole = torch.view_as_complex(new(rows, times, self.n_fft // 2 + 1, 2))
        self.parts = new(rows, 2, self.bins, times)
        self.inverted = new(rows, times, self.n_fft)
        self.total = new(rows, times + hops - 1, self.hop)
        self.windowed[:] = self.window.square()
        self.envelope = self.added()[:1].clone()

    @property
    def windowed(self) -> Tensor:
        """What of ``frames`` a frame fills."""
        return self.frames.flatten(2)[..., : self.n_fft]

    def added(self) -> Tensor:
        """The frames, each a hop later than the last, added up in their order; without the centred half frames."""
        self.total.zero_()
        hops = self.frames.shape[2]
        for piece in reversed(range(hops)):
            self.total[:, piece : piece + self.times] += self.frames[:, :, piece]
        start = self.n_fft // 2
        return self.total.flatten(1)[:, start : start + self.hop * (self.times - 1)]


class Stft:
    """The transform of one model. Tensors are float32; what is returned is good until the next call."""

    def __init__(self, n_fft: int, hop: int, bins: int, device: torch.device) -> None:
        """``n_fft``, ``hop``: frames. ``bins``: how many of the lowest ones the network sees."""
        self._n_fft, self._hop, self._bins = n_fft, hop, bins
        self._window = torch.hann_window(n_fft, periodic=True).to(device)
        self._kept: _Room | None = None

    def forward(self, waves: Tensor) -> Tensor:
        """``(batch, channels, frames)`` to ``(batch, channels * 2, bins, times)``, real and imaginary by turns."""
        batch, channels, frames = waves.shape
        room = self._room(batch * channels, 1 + frames // self._hop)
        _reflect(waves.reshape(-1, frames), room.padded, self._n_fft // 2)
        torch.mul(room.padded.unfold(1, self._n_fft, self._hop), self._window, out=room.inverted)
        torch.fft.rfft(room.inverted, out=room.whole)
        seen = room.whole[..., : self._bins].transpose(1, 2)
        room.parts[:, 0], room.parts[:, 1] = seen.real, seen.imag
        room.parts[:, :, :MUTED_BINS] = 0.0
        return room.parts.view(batch, channels * 2, self._bins, room.times)

    def inverse(self, spectra: Tensor) -> Tensor:
        """``(batch, channels * 2, bins, times)`` to ``(batch, channels, frames)``."""
        batch, parts, bins, times = spectra.shape
        room = self._room(batch * parts // 2, times)
        given = spectra.reshape(room.rows, 2, bins, times).transpose(2, 3)
        seen = room.spectrum[..., :bins]
        seen.real[:], seen.imag[:] = given[:, 0], given[:, 1]
        torch.fft.irfft(room.spectrum, n=self._n_fft, out=room.inverted)
        torch.mul(room.inverted, self._window, out=room.windowed)
        return (room.added() / room.envelope).view(batch, parts // 2, -1)

    def _room(self, rows: int, times: int) -> _Room:
        """The buffers for so many rows. There is one set of them: where memory has run out and batches become smaller,
        those of the larger ones must not stay."""
        if self._kept is None or (self._kept.rows, self._kept.times) != (rows, times):
            self._kept = None  # or both would have to fit
            self._kept = _Room(rows, times, self._n_fft, self._hop, self._bins, self._window)
        return self._kept


def _reflect(rows: Tensor, padded: Tensor, size: int) -> None:
    """Put ``rows`` into the middle of ``padded``, their ends mirrored ``size`` frames far."""
    end = padded.shape[1] - size
    padded[:, size:end] = rows
    padded[:, :size] = rows[:, 1 : size + 1].flip(1)
    padded[:, end:] = rows[:, -size - 1 : -1].flip(1)
