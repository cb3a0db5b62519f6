"""Write small untrained models of other architectures than the demo model's, from seeds."""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demo.model_folder import LISTS, model_hash


def write_list(model_dir: Path, **lists: dict[str, Any]) -> None:
    """Write the lists of models, with these entries only."""
    model_dir.mkdir(parents=True, exist_ok=True)
    (model_dir / "download_checks.json").write_text(json.dumps({name: {} for name in LISTS} | lists))
    for name in ("mdx_model_data.json", "vr_model_data.json"):
        (model_dir / name).write_text("{}")


def write_mdxc(
    model_dir: Path,
    instruments: list[str],
    target: str | None = None,
    *,
    name: str = "tiny",
    overlap: int = 2,
    channels: int = 2,
) -> str:
    """Add an MDX23C model with these stems; return its name. ``channels``: 1 for a mono network."""
    import torch
    from audio_separator.separator.uvr_lib_v5.tfc_tdf_v3 import TFC_TDF_net
    from ml_collections import ConfigDict  # type: ignore[import-untyped]

    audio = {"chunk_size": 65536, "dim_f": 1024, "hop_length": 1024, "n_fft": 2048, "num_channels": channels}
    network = {"act": "gelu", "bottleneck_factor": 4, "growth": 8, "norm": "InstanceNorm", "num_blocks_per_scale": 1}
    config = {
        "audio": {**audio, "sample_rate": 44100},
        "model": {**network, "num_channels": 8, "num_scales": 2, "num_subbands": 4, "scale": [2, 2]},
        "training": {"instruments": instruments, "target_instrument": target},
        "inference": {"batch_size": 1, "dim_t": 64, "num_overlap": overlap},
    }
    torch.manual_seed(0)
    return save_mdxc(model_dir, name, config, TFC_TDF_net(ConfigDict(config), device="cpu"), "mdx23c_download_list")


def write_roformer(
    model_dir: Path,
    instruments: list[str],
    target: str | None = None,
    *,
    name: str = "tiny",
    overlap: int = 4,
    bands: str = "bs",
    passes: bool = False,
    times: int = 201,
    **options: Any,
) -> str:
    """Add a Roformer with these stems; return its name.

    ``bands``: ``bs``, or ``mel`` for Mel bands. ``passes``: every stem is equal to the input. ``times``: frames in a
    segment. ``options``: of the network.
    """
    import torch
    from audio_separator.separator.uvr_lib_v5.roformer.bs_roformer import BSRoformer
    from audio_separator.separator.uvr_lib_v5.roformer.mel_band_roformer import MelBandRoformer

    transform = {"stft_n_fft": 1024, "stft_hop_length": 441, "stft_win_length": 1024}
    size = {"dim": 8, "depth": 1, "heads": 2, "dim_head": 4, "mask_estimator_depth": 2}
    depths = {"time_transformer_depth": 1, "freq_transformer_depth": 1, "attn_dropout": 0.0, "ff_dropout": 0.0}
    cut: dict[str, Any] = {"num_bands": 16} if bands == "mel" else {"freqs_per_bands": (1, *(64,) * 8)}
    shape: dict[str, Any] = {**transform, **size, **depths, "stereo": True, **cut, **options}
    shape["num_stems"] = 1 if target else len(instruments)
    torch.manual_seed(0)
    network = (MelBandRoformer if bands == "mel" else BSRoformer)(**shape)
    if passes:
        _let_pass(network)
    config = {
        "audio": {"chunk_size": 88200, "hop_length": 512, "n_fft": 1024, "num_channels": 2, "sample_rate": 44100},
        "model": shape,
        "training": {"instruments": instruments, "target_instrument": target},
        "inference": {"batch_size": 1, "dim_t": times, "num_overlap": overlap},
    }
    return save_mdxc(model_dir, name, config, network, "roformer_download_list")


def _let_pass(roformer: Any) -> None:
    """Set the mask to one: the last layer outputs 1 and 0 alternately (real and imaginary parts), and the gates, the
    second half, pass all of it.
    """
    import torch

    for estimator in roformer.mask_estimators:
        for band in estimator.to_freqs:
            layer = band[0][-1]
            half = layer.out_features // 2
            with torch.no_grad():
                layer.weight.zero_()
                layer.bias[:half] = torch.tensor([1.0, 0.0]).repeat(half // 2)
                layer.bias[half:] = 100.0


def save_mdxc(model_dir: Path, name: str, config: dict[str, Any], network: Any, kind: str) -> str:
    """Save the network and add it to the list ``kind``; return its name."""
    import torch

    model_dir.mkdir(parents=True, exist_ok=True)
    # JSON is YAML as well.
    (model_dir / f"{name}.yaml").write_text(json.dumps(config))
    torch.save(network.state_dict(), model_dir / f"{name}.ckpt")
    listed = model_dir / "download_checks.json"
    lists = json.loads(listed.read_text()) if listed.exists() else {}
    lists.setdefault(kind, {})[f"MDXC Model: {name}"] = {f"{name}.ckpt": f"{name}.yaml"}
    write_list(model_dir, **lists)
    return f"{name}.ckpt"


def write_vr(model_dir: Path, *layouts: str) -> None:
    """Write VR models of version 5.1 for some of the library's band layouts, each named ``<layout>.pth``."""
    from audio_separator.separator.uvr_lib_v5.vr_network.nets_new import CascadedNet

    save_vr(model_dir, layouts, lambda bins: CascadedNet(2 * bins, nout=4, nout_lstm=8), {"nout": 4, "nout_lstm": 8})


def write_old_vr(model_dir: Path, *layouts: str) -> None:
    """Write VR models of version 5.0 in the smallest size, 30 MB: the library identifies them by their size."""
    from audio_separator.separator.uvr_lib_v5.vr_network.nets import determine_model_capacity

    save_vr(model_dir, layouts, lambda bins: determine_model_capacity(2 * bins, 31191), {})


def damage_vr(model_dir: Path, name: str) -> None:
    """Truncate the weights of a model, and list its parameters under the hash of the remaining bytes."""
    path = model_dir / name
    content = path.read_bytes()[:5000]
    path.write_bytes(content)
    data = json.loads((model_dir / "vr_model_data.json").read_text())
    (model_dir / "vr_model_data.json").write_text(json.dumps({model_hash(content): next(iter(data.values()))}))


def save_vr(model_dir: Path, layouts: tuple[str, ...], network: Callable[[int], Any], size: dict[str, int]) -> None:
    """Write VR models for these layouts.

    ``network`` returns one for a number of bins; ``size``: the entries for its size in the model's parameters.
    """
    import torch
    from audio_separator.separator.uvr_lib_v5 import vr_network

    data = {}
    names = [f"{layout}.pth" for layout in layouts]
    write_list(model_dir, vr_download_list={f"VR Arch Single Model v5: {name}": name for name in names})
    for number, (layout, name) in enumerate(zip(layouts, names, strict=True)):
        parameters = json.loads((Path(vr_network.__path__[0]) / "modelparams" / f"{layout}.json").read_text())
        torch.manual_seed(number)
        module = network(parameters.get("n_bins") or parameters["bins"])
        with torch.no_grad():
            module.out.weight *= 200  # otherwise the mask would be about one half everywhere
        torch.save(module.state_dict(), model_dir / name)
        data[model_hash((model_dir / name).read_bytes())] = {"vr_model_param": layout, "primary_stem": "Drums", **size}
    (model_dir / "vr_model_data.json").write_text(json.dumps(data))


@dataclass(frozen=True)
class DemucsModel:
    """A Demucs model with one network for each entry of ``weights``."""

    network: str
    """Module and class of the library."""
    options: dict[str, Any]
    weights: tuple[tuple[float, ...], ...] | None = None
    """Weights of each network's stems; None: one network, without weights in the model's YAML."""


FOUR = ["drums", "bass", "other", "vocals"]
HYBRID_TRANSFORMER = {"channels": 4, "dconv_comp": 2, "t_layers": 1, "t_heads": 2, "t_hidden_scale": 1.0}

#: A model that the library must run itself: its output depends on the random numbers that it draws.
DICING = DemucsModel(
    "htdemucs.HTDemucs", {"sources": FOUR, "segment": 1, "t_sin_random_shift": 7, **HYBRID_TRANSFORMER}
)


def write_demucs(folder: Path) -> tuple[str, str]:
    """Write the two files of a Demucs model; return their names, that of the model first."""
    options = {"sources": FOUR, "channels": 4}
    weights = _write_network(folder, "abcd1234", "hdemucs.HDemucs", options, seed=0)
    (folder / "tiny.yaml").write_text("models: ['abcd1234']\n")
    return "tiny.yaml", weights


def write_demucs_models(model_dir: Path, models: Mapping[str, DemucsModel]) -> None:
    """Write models of several kinds into one folder, under their names with ``.yaml``."""
    model_dir.mkdir(parents=True)
    listed = {}
    for title, model in models.items():
        signatures = [f"{title}{number}" for number in range(len(model.weights or (1,)))]
        files = [
            _write_network(model_dir, signature, model.network, model.options, seed=seed)
            for seed, signature in enumerate(signatures)
        ]
        bag = {"models": signatures} | ({"weights": model.weights} if model.weights else {})
        (model_dir / f"{title}.yaml").write_text(json.dumps(bag))
        listed[f"Demucs v4: {title}"] = {file: f"https://models.invalid/{file}" for file in (*files, f"{title}.yaml")}
    write_list(model_dir, demucs_download_list=listed)


def _write_network(folder: Path, signature: str, network: str, options: dict[str, Any], *, seed: int) -> str:
    """Write a file that is named after the network and its own hash, as the library requires; return its name."""
    import torch

    module, name = network.split(".")
    klass = getattr(importlib.import_module(f"audio_separator.separator.uvr_lib_v5.demucs.{module}"), name)
    torch.manual_seed(seed)
    draft = folder / "draft"
    torch.save({"klass": klass, "args": (), "kwargs": options, "state": klass(**options).state_dict()}, draft)
    file = f"{signature}-{hashlib.sha256(draft.read_bytes()).hexdigest()[:8]}.th"
    draft.rename(folder / file)
    return file


def list_demucs(model_dir: Path, name: str, weights: str, base_url: str) -> None:
    """List the model with ``base_url`` as its source."""
    files = {weights: f"{base_url}/{weights}", name: f"{base_url}/{name}"}
    write_list(model_dir, demucs_download_list={"Demucs v4: tiny": files})
