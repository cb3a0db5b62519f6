"""Untrained models of the architectures that the demo model is none of; see the fixture ``library``."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

LISTS = (
    "vr_download_list",
    "mdx_download_list",
    "mdx_download_vip_list",
    "demucs_download_list",
    "mdx23c_download_list",
    "mdx23c_download_vip_list",
    "roformer_download_list",
)


def write_list(model_dir: Path, **lists: dict[str, Any]) -> None:
    """The list of models, of which there are these alone."""
    model_dir.mkdir(parents=True, exist_ok=True)
    (model_dir / "download_checks.json").write_text(json.dumps({name: {} for name in LISTS} | lists))
    for name in ("mdx_model_data.json", "vr_model_data.json"):
        (model_dir / name).write_text("{}")


def write_mdxc(model_dir: Path, instruments: list[str]) -> str:
    """An MDX23C model with these stems; returns its name."""
    import torch
    from audio_separator.separator.uvr_lib_v5.tfc_tdf_v3 import TFC_TDF_net
    from ml_collections import ConfigDict  # type: ignore[import-untyped]

    audio = {"chunk_size": 65536, "dim_f": 1024, "hop_length": 1024, "n_fft": 2048, "num_channels": 2}
    network = {"act": "gelu", "bottleneck_factor": 4, "growth": 8, "norm": "InstanceNorm", "num_blocks_per_scale": 1}
    config = {
        "audio": {**audio, "sample_rate": 44100},
        "model": {**network, "num_channels": 8, "num_scales": 2, "num_subbands": 4, "scale": [2, 2]},
        "training": {"instruments": instruments, "target_instrument": None},
        "inference": {"batch_size": 1, "dim_t": 64, "num_overlap": 2},
    }
    write_list(model_dir, mdx23c_download_list={"MDX23C Model: tiny": {"tiny.ckpt": "tiny.yaml"}})
    # JSON is YAML as well.
    (model_dir / "tiny.yaml").write_text(json.dumps(config))
    torch.manual_seed(0)
    torch.save(TFC_TDF_net(ConfigDict(config), device="cpu").state_dict(), model_dir / "tiny.ckpt")
    return "tiny.ckpt"


def write_demucs(folder: Path) -> tuple[str, str]:
    """A Demucs model's two files; returns their names, the one that names the model first."""
    import torch
    from audio_separator.separator.uvr_lib_v5.demucs.hdemucs import HDemucs

    torch.manual_seed(0)
    options = {"sources": ["drums", "bass", "other", "vocals"], "channels": 4}
    draft = folder / "draft"
    torch.save({"klass": HDemucs, "args": (), "kwargs": options, "state": HDemucs(**options).state_dict()}, draft)
    weights = f"abcd1234-{hashlib.sha256(draft.read_bytes()).hexdigest()[:8]}.th"
    draft.rename(folder / weights)
    (folder / "tiny.yaml").write_text("models: ['abcd1234']\n")
    return "tiny.yaml", weights


def list_demucs(model_dir: Path, name: str, weights: str, base_url: str) -> None:
    """List the model so that it would be fetched from ``base_url``."""
    files = {weights: f"{base_url}/{weights}", name: f"{base_url}/{name}"}
    write_list(model_dir, demucs_download_list={"Demucs v4: tiny": files})
