"""Networks of common sizes with random weights, which do not affect the speed; and small networks.

Sizes are those of public models' configurations: UVR-MDX-NET HQ 4 (frames and bins; its layers are those of
``demo.random_network``, in two widths), BS-Roformer ep 317, Mel-Band Roformer (vocals, K. Jensen), MDX23C InstVoc HQ,
HTDemucs as its authors published it, and the larger of UVR's VR 5.1 networks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

from demo import tiny_models
from demo.random_network import Shape, install_random_model
from demo.tiny_models import DemucsModel

PAIR: Final = ["Vocals", "Instrumental"]
LAYOUT: Final = "1band_sr44100_hl512"

_BANDS: Final = (2,) * 24 + (4,) * 12 + (12,) * 8 + (24,) * 8 + (48,) * 8 + (128, 129)


@dataclass(frozen=True, slots=True)
class BenchmarkNetwork:
    """One model."""

    name: str
    title: str
    full: Callable[[Path], str]
    """Writes the model into a folder and returns the name by which it is loaded. Imports torch."""
    small: Callable[[Path], str]
    lower: bool = True
    """Whether the engine runs it in another precision than float32 and TF32."""
    compiles: bool = True
    graphs: bool = False
    """Whether it can run as a CUDA graph."""


def _mdx(growth: int, *, small: bool = False) -> Callable[[Path], str]:
    small_shape = Shape(n_fft=4096, bins=2048, log2_times=8, growth=3, levels=1, convolutions=1, bottleneck=64)
    shape = small_shape if small else Shape(n_fft=5120, bins=2560, log2_times=8, growth=growth)
    return lambda folder: install_random_model(folder, "random.onnx", shape).name


def _mdx23c(folder: Path) -> str:
    import torch
    from audio_separator.separator.uvr_lib_v5.tfc_tdf_v3 import TFC_TDF_net
    from ml_collections import ConfigDict  # type: ignore[import-untyped]

    audio = {"chunk_size": 261120, "dim_f": 4096, "hop_length": 1024, "n_fft": 8192, "num_channels": 2}
    size = {"growth": 128, "num_channels": 128, "num_scales": 5, "num_blocks_per_scale": 2, "num_subbands": 4}
    config: dict[str, Any] = {
        "audio": {**audio, "sample_rate": 44100, "dim_t": 256},
        "model": {**size, "act": "gelu", "bottleneck_factor": 4, "norm": "InstanceNorm", "scale": [2, 2]},
        "training": {"instruments": PAIR, "target_instrument": None},
        "inference": {"batch_size": 1, "dim_t": 256, "num_overlap": 8},
    }
    torch.manual_seed(0)
    network = TFC_TDF_net(ConfigDict(config), device="cpu")
    return tiny_models.save_mdxc(folder, "random", config, network, "mdx23c_download_list")


def _roformer(*, mel: bool) -> Callable[[Path], str]:
    def write(folder: Path) -> str:
        import torch
        from audio_separator.separator.uvr_lib_v5.roformer.bs_roformer import BSRoformer
        from audio_separator.separator.uvr_lib_v5.roformer.mel_band_roformer import MelBandRoformer

        transform = {"stft_n_fft": 2048, "stft_hop_length": 441, "stft_win_length": 2048}
        layers = {"time_transformer_depth": 1, "freq_transformer_depth": 1, "mask_estimator_depth": 2}
        shape = {**transform, **layers, "heads": 8, "dim_head": 64, "stereo": True, "num_stems": 1}
        size = (
            {"dim": 384, "depth": 6, "num_bands": 60} if mel else {"dim": 512, "depth": 12, "freqs_per_bands": _BANDS}
        )
        config: dict[str, Any] = {
            "audio": {"chunk_size": 352800, "hop_length": 441, "n_fft": 2048, "num_channels": 2, "sample_rate": 44100},
            "model": {**shape, **size},
            "training": {"instruments": PAIR, "target_instrument": "Vocals"},
            "inference": {"batch_size": 1, "dim_t": 801, "num_overlap": 4},
        }
        torch.manual_seed(0)
        network: Any = (MelBandRoformer if mel else BSRoformer)(**config["model"])
        return tiny_models.save_mdxc(folder, "random", config, network, "roformer_download_list")

    return write


def _demucs(*, small: bool) -> Callable[[Path], str]:
    options: dict[str, Any] = {"sources": tiny_models.FOUR, "segment": Fraction(39, 5)}
    options |= tiny_models.HYBRID_TRANSFORMER if small else {"bottom_channels": 512}

    def write(folder: Path) -> str:
        tiny_models.write_demucs_models(folder, {"random": DemucsModel("htdemucs.HTDemucs", options)})
        return "random.yaml"

    return write


def _vr(*, small: bool) -> Callable[[Path], str]:
    size = {"nout": 4, "nout_lstm": 8} if small else {"nout": 48, "nout_lstm": 128}

    def write(folder: Path) -> str:
        from audio_separator.separator.uvr_lib_v5.vr_network.nets_new import CascadedNet

        tiny_models.save_vr(folder, (LAYOUT,), lambda bins: CascadedNet(2 * bins, **size), size)
        return f"{LAYOUT}.pth"

    return write


def _small_mdxc(folder: Path) -> str:
    return tiny_models.write_mdxc(folder, PAIR)


def _small_roformer(bands: str) -> Callable[[Path], str]:
    return lambda folder: tiny_models.write_roformer(folder, PAIR, "Vocals", bands=bands)


NETWORKS: Final = (
    BenchmarkNetwork("mdx32", "MDX, HQ size, g = 32", _mdx(32), _mdx(32, small=True), graphs=True),
    BenchmarkNetwork("mdx48", "MDX, HQ size, g = 48", _mdx(48), _mdx(48, small=True), graphs=True),
    BenchmarkNetwork("bs", "BS-Roformer", _roformer(mel=False), _small_roformer("bs")),
    BenchmarkNetwork("mel", "Mel-Band Roformer", _roformer(mel=True), _small_roformer("mel")),
    BenchmarkNetwork("mdx23c", "MDX23C", _mdx23c, _small_mdxc),
    BenchmarkNetwork("htdemucs", "HTDemucs", _demucs(small=False), _demucs(small=True), lower=False, compiles=False),
    BenchmarkNetwork("vr", "VR 5.1, large", _vr(small=False), _vr(small=True), compiles=False),
)
