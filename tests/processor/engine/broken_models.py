"""Models that are damaged, hostile or unusual, and their separation in the process with audio-separator."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from fractions import Fraction
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from demo import tiny_models
from demo.model_folder import install_mdx_model, model_hash
from pipeline.cancellation import CancelToken
from processor.audio.decode import Mixture
from processor.ipc import COMMANDS, REPORTS, JobReport, Separate
from processor.system.channel import Channel
from tests.processor.separation.upstream_calls import Refusal, cached_engine, load, upstream_separator

PAIR = ["Vocals", "Instrumental"]


@dataclass(frozen=True)
class Bomb:
    """Creates a file when it is unpickled."""

    path: str

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.path,)


def write_hostile(model_dir: Path, kind: str, victim: Path) -> str:
    """Write a model whose weights create ``victim`` when a general unpickler loads them; return its name."""
    import torch

    bomb = Bomb(str(victim))
    if kind == "demucs":
        name, weights = tiny_models.write_demucs(model_dir)
        package = torch.load(model_dir / weights, weights_only=False)
        (model_dir / weights).unlink()
        torch.save({**package, "training_args": bomb}, model_dir / "abcd1234.th")
        tiny_models.list_demucs(model_dir, name, "abcd1234.th", "https://models.invalid")
        return name
    if kind == "vr":
        tiny_models.write_vr(model_dir, "1band_sr44100_hl512")
        path = model_dir / "1band_sr44100_hl512.pth"
        data = json.loads((model_dir / "vr_model_data.json").read_text())
        torch.save({"bomb": bomb}, path)
        parameters = {model_hash(path.read_bytes()): next(iter(data.values()))}
        (model_dir / "vr_model_data.json").write_text(json.dumps(parameters))
        return path.name
    write = {"mdx23c": tiny_models.write_mdxc, "roformer": tiny_models.write_roformer}[kind]
    name = write(model_dir, PAIR)
    torch.save({"bomb": bomb}, model_dir / name)
    return name


def write_published_demucs(model_dir: Path) -> str:
    """Write a Demucs model like the published ones, which name classes of the package ``demucs``; return its name."""
    import importlib

    import torch
    from audio_separator.separator import uvr_lib_v5

    sys.path.insert(0, str(Path(uvr_lib_v5.__path__[0])))
    try:
        network = importlib.import_module("demucs.hdemucs").HDemucs
    finally:
        del sys.path[0]
    options = {"sources": tiny_models.FOUR, "channels": 4, "segment": Fraction(39, 5)}
    arguments = {"lr": np.float64(3e-4), "epochs": np.int64(360), "seed": 42}
    content = {"klass": network, "args": (), "kwargs": options, "state": network(**options).state_dict()}
    torch.save({**content, "training_args": arguments}, model_dir / "955717e8.th")
    (model_dir / "published.yaml").write_text("models: ['955717e8']\n")
    tiny_models.list_demucs(model_dir, "published.yaml", "955717e8.th", "https://models.invalid")
    return "published.yaml"


def write_quantised_demucs(model_dir: Path) -> str:
    """Write a Demucs model whose weights are quantised with diffq; return its name."""
    import diffq  # type: ignore[import-untyped]
    import torch
    from audio_separator.separator.uvr_lib_v5.demucs.hdemucs import HDemucs

    options = {"sources": tiny_models.FOUR, "channels": 4}
    network = HDemucs(**options)
    state = {
        **diffq.UniformQuantizer(network, bits=8, min_size=0.01).get_quantized_state(packed=False),  # typos: allow
        "__quantized": True,  # typos: allow
    }
    torch.save({"klass": HDemucs, "args": (), "kwargs": options, "state": state}, model_dir / "07afea75.th")
    (model_dir / "quantised.yaml").write_text("models: ['07afea75']\n")
    tiny_models.list_demucs(model_dir, "quantised.yaml", "07afea75.th", "https://models.invalid")
    return "quantised.yaml"


def load_without_diffq(model_dir: Path, scratch: Path, model: str) -> str | Refusal:
    """Load a model where diffq is not installed; return the device or the error. Needs a process without diffq."""
    sys.modules.setdefault("diffq", None)  # type: ignore[arg-type]
    return load(model_dir, scratch, model)


def write_changed(model_dir: Path, kind: str, change: str) -> str:
    """Write an MDX23C model or a Roformer and change its files; return its name."""
    import torch

    write = {"mdx23c": tiny_models.write_mdxc, "roformer": tiny_models.write_roformer}[kind]
    name = write(model_dir, PAIR)
    path, config_path = model_dir / name, model_dir / "tiny.yaml"
    config = json.loads(config_path.read_text())
    weights = torch.load(path)
    match change:
        case "module.":
            torch.save({f"module.{key}": value for key, value in weights.items()}, path)
        case "nested":
            torch.save({"state_dict": weights, "epoch": 7}, path)
        case "other weights":
            torch.save({f"{key}.other": value for key, value in weights.items()}, path)
        case "truncated":
            path.write_bytes(path.read_bytes()[:5000])
        case "no dim_t":
            hop = config["model"].get("stft_hop_length", config["audio"]["hop_length"])
            config["audio"]["chunk_size"] = hop * (config["inference"]["dim_t"] - 1)
            del config["inference"]["dim_t"], config["training"]["target_instrument"]
        case "no network":
            config["model"] = {}
    config_path.write_text(json.dumps(config))
    return name


def write_short_input(model_dir: Path) -> str:
    """Write an MDX model whose network takes spectra of another size than its parameters give; return its name."""
    ends = [onnx.helper.make_tensor_value_info(end, 1, ["batch", 4, 1024, 128]) for end in ("input", "output")]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["input"], ["output"])], "g", ends[:1], ends[1:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    parameters = {"compensate": 1.0, "mdx_dim_f_set": 2048, "mdx_dim_t_set": 8, "mdx_n_fft_scale_set": 4096}
    install_mdx_model(model_dir, "short.onnx", model.SerializeToString(), {**parameters, "primary_stem": "Vocals"})
    return "short.onnx"


def forget_engines() -> None:
    """Let the next call load changed files."""
    cached_engine.cache_clear()
    upstream_separator.cache_clear()


def job_report(model_dir: Path, scratch: Path, mixture: Mixture, folder: Path, model: str) -> JobReport:
    """Return what a child reports at the end of a job."""
    from processor.workers.child import ParentConnection, _separate

    ours, theirs = Pipe()
    job = Separate(1, mixture.path, mixture.peak, mixture.frames, folder, model, None)
    with theirs, Channel(ours, sends=REPORTS, receives=COMMANDS) as channel:
        return _separate(cached_engine(model_dir, scratch), job, CancelToken(), ParentConnection(channel))
