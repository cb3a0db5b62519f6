"""Build MDX networks of any size with random weights, for tests and benchmarks: they run as long as trained ones.

The layers are those of the ConvTDF networks that most MDX models are (W. Choi et al., "Investigating U-Nets with
various intermediate blocks for spectrogram-based singing voice separation", ISMIR 2020; M. Kim et al.,
"KUIELab-MDX-Net: A two-stream neural network for music demixing", MDX Workshop 2021): a U-Net over time and frequency
whose blocks are 3 × 3 convolutions and a bottleneck of two linear layers over all frequencies. Normalisation is
omitted, because the export to ONNX folds it into the convolutions. Skip connections are added rather than multiplied,
so that the untrained network keeps its scale.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from demo.graph_builder import GraphBuilder, Tensor
from demo.model_folder import install_mdx_model

#: Real and imaginary parts of two channels.
_PARTS: Final = 4


@dataclass(frozen=True, slots=True)
class Shape:
    """The transform and the size of a network. The defaults are those of the well-known MDX models."""

    n_fft: int = 6144
    bins: int = 3072
    log2_times: int = 8
    growth: int = 32
    """Channels of the top level; each level below adds as many."""
    levels: int = 5
    """Levels below the top; each halves time and frequency, so that ``bins`` must be a multiple of ``2 ** levels``."""
    convolutions: int = 3
    """Convolutions in a block."""
    bottleneck: int = 8
    """Factor by which the first linear layer of a block reduces the number of frequencies."""


@dataclass(frozen=True, slots=True)
class Metadata:
    """The parameters of a model besides its shape."""

    primary_stem: str = "Vocals"
    compensate: float = 1.035


def install_random_model(
    model_dir: Path, name: str, shape: Shape | None = None, metadata: Metadata | None = None, *, seed: int = 0
) -> Path:
    """Write the network of that seed into ``model_dir`` as ``name``; return its path. Raises OSError, ValueError."""
    shape, metadata = shape or Shape(), metadata or Metadata()
    parameters = {
        "compensate": metadata.compensate,
        "mdx_dim_f_set": shape.bins,
        "mdx_dim_t_set": shape.log2_times,
        "mdx_n_fft_scale_set": shape.n_fft,
        "primary_stem": metadata.primary_stem,
    }
    return install_mdx_model(model_dir, name, build_network(shape, seed), parameters)


def build_network(shape: Shape, seed: int = 0) -> bytes:
    """Return the network as the bytes of an ONNX file; batch and number of frames are free."""
    layers = _Layers(shape, seed)
    skips: list[Tensor] = []
    # The linear layers need frequency as the last axis.
    tensor = layers.swap(layers.convolution("input", _PARTS, shape.growth, 1))
    channels, bins = shape.growth, shape.bins
    for _ in range(shape.levels):
        skips.append(layers.block(tensor, channels, bins))
        tensor = layers.convolution(skips[-1], channels, channels + shape.growth, 2, stride=2)
        channels, bins = channels + shape.growth, bins // 2
    tensor = layers.block(tensor, channels, bins)
    while skips:
        tensor = layers.graph.add(layers.widening(tensor, channels, channels - shape.growth), skips.pop())
        channels, bins = channels - shape.growth, bins * 2
        tensor = layers.block(tensor, channels, bins)
    layers.convolution(layers.swap(tensor), channels, _PARTS, 1, output="output")
    model = layers.graph.model("random", ["batch", _PARTS, shape.bins, "times"])
    content: bytes = model.SerializeToString()
    return content


class _Layers:
    def __init__(self, shape: Shape, seed: int) -> None:
        self.graph = GraphBuilder()
        self._shape = shape
        # Different shapes give different bytes, by which the library identifies the parameters of a model.
        self._random = np.random.default_rng((seed, shape.n_fft, shape.log2_times))

    def block(self, tensor: Tensor, channels: int, bins: int) -> Tensor:
        for _ in range(self._shape.convolutions):
            tensor = self.convolution(tensor, channels, channels, 3, pad=1)
        narrow = max(1, bins // self._shape.bottleneck)
        return self.graph.add(tensor, self._linear(self._linear(tensor, bins, narrow), narrow, bins))

    def convolution(
        self,
        tensor: Tensor,
        channels: int,
        out: int,
        size: int,
        *,
        stride: int = 1,
        pad: int = 0,
        output: str | None = None,
    ) -> Tensor:
        """Add a convolution, followed by a rectifier unless it is the last layer (``output``)."""
        inputs = channels * size * size
        # The last layer compensates for the growth of the power through blocks and skip connections.
        weights = self._weights(
            (out, channels, size, size), inputs << (3 * self._shape.levels + 1) if output else inputs
        )
        form: dict[str, Any] = {"kernel_shape": [size, size], "strides": [stride, stride], "pads": [pad] * 4}
        result = self.graph.op("Conv", tensor, weights, self._biases(out), output=output, **form)
        return result if output else self.graph.op("Relu", result)

    def widening(self, tensor: Tensor, channels: int, out: int) -> Tensor:
        weights = self._weights((channels, out, 2, 2), channels)
        form: dict[str, Any] = {"kernel_shape": [2, 2], "strides": [2, 2]}
        return self.graph.op("Relu", self.graph.op("ConvTranspose", tensor, weights, self._biases(out), **form))

    def swap(self, tensor: Tensor) -> Tensor:
        """Swap time and frequency."""
        return self.graph.op("Transpose", tensor, perm=[0, 1, 3, 2])

    def _linear(self, tensor: Tensor, size: int, out: int) -> Tensor:
        return self.graph.op("Relu", self.graph.op("MatMul", tensor, self._weights((size, out), size)))

    def _weights(self, shape: tuple[int, ...], inputs: int) -> Tensor:
        """Add random weights that keep the power of a layer's input (K. He et al., ICCV 2015)."""
        return self.graph.constant(self._random.normal(0.0, math.sqrt(2 / inputs), shape))

    def _biases(self, size: int) -> Tensor:
        return self.graph.constant(self._random.normal(0.0, 0.01, size))
