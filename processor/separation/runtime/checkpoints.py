"""Read the files of models as data: weights without pickled code, and YAML without tags that construct objects.

A checkpoint is a pickle, which may run any code while it is loaded. torch's ``weights_only`` restricts it to tensors
and to an allowlist of classes (https://docs.pytorch.org/docs/stable/notes/serialization.html#weights-only).
audio-separator switches this off for Demucs, whose files contain their network's class, and reads YAML with a loader
that imports modules. Both are patched here, for the whole process.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from fractions import Fraction
from importlib import import_module
from types import ModuleType, SimpleNamespace
from typing import IO, Any, NoReturn

import numpy as np
import torch
import yaml
from audio_separator.separator import separator as upstream_module

from pipeline.errors import ErrorCode, PermanentError

_torch_load = torch.load

_DEMUCS = "audio_separator.separator.uvr_lib_v5.demucs"
#: The networks of Demucs, in ``demucs`` where the files were written, and in audio-separator's copy of that package.
_NETWORKS = ("demucs.Demucs", "hdemucs.HDemucs", "htdemucs.HTDemucs", "tasnet.ConvTasNet")
_QUANTIZERS = ("diffq.DiffQuantizer", "uniform.UniformQuantizer")

#: Keys under which training programs store the weights beside other things.
_NESTED = ("state_dict", "model")
#: What DataParallel and torch.compile prepend to the name of every weight.
_PREFIXES = ("module.", "_orig_mod.")

#: Frames in a segment where the YAML of a model gives neither their number nor the length of a segment:
#: audio-separator's own default.
_DEFAULT_TIMES = 256


class _ConfigLoader(yaml.SafeLoader):
    """Constructs plain values, and tuples, which some models' parameters are written as."""


def _construct_tuple(loader: _ConfigLoader, node: yaml.SequenceNode) -> tuple[Any, ...]:
    return tuple(loader.construct_sequence(node, deep=True))


_ConfigLoader.add_constructor("tag:yaml.org,2002:python/tuple", _construct_tuple)


def restrict_loading() -> None:
    """Let this process read checkpoints and audio-separator's YAML as data only, whatever the caller asks for."""
    os.environ.pop("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", None)
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
    torch.load = _load
    upstream_module.yaml = SimpleNamespace(load=lambda stream, **_: read_config(stream), FullLoader=None)
    try:
        import_module("diffq")
    except ImportError:  # it has no wheels for the newer versions of Python
        sys.modules["diffq"] = _diffq_substitute()


def read_config(stream: IO[str]) -> dict[str, Any]:
    """Return the parameters of a model from its YAML, with defaults for what the networks do not need.

    Raises yaml.YAMLError.
    """
    config = _ConfigLoader(stream).get_single_data()
    if not isinstance(config, dict):
        raise yaml.YAMLError("the YAML of the model is not a mapping")
    if isinstance(config.get("training"), dict):
        config["training"].setdefault("target_instrument", None)
        inference = config["inference"] = dict(config.get("inference") or {})
        if inference.get("dim_t") is None:
            inference["dim_t"] = _default_times(config)
    return config


def _default_times(config: Mapping[str, Any]) -> int:
    """Return the frames in a segment of ``audio.chunk_size`` samples, the form in which training programs give it."""
    audio, model = config.get("audio") or {}, config.get("model") or {}
    hop = model.get("stft_hop_length") or audio.get("hop_length")
    return int(audio["chunk_size"]) // int(hop) + 1 if hop and audio.get("chunk_size") else _DEFAULT_TIMES


def _load(*args: Any, **options: Any) -> Any:
    """Load a checkpoint as torch does, with the classes of Demucs allowed if they are imported."""
    with _demucs_classes() if f"{_DEMUCS}.states" in sys.modules else nullcontext():
        return unwrapped(_torch_load(*args, **options))


def unwrapped(content: Any) -> Any:
    """Return the weights of a checkpoint without the dictionary around them and the prefixes of their names."""
    if not isinstance(content, dict) or "klass" in content:  # Demucs' files are not changed
        return content
    content = next((content[key] for key in _NESTED if isinstance(content.get(key), dict)), content)
    for prefix in _PREFIXES:
        if content and all(str(name).startswith(prefix) for name in content):
            content = {name.removeprefix(prefix): weight for name, weight in content.items()}
    return content


def _demucs_classes() -> AbstractContextManager[Any]:
    """Return the context in which files of Demucs can be loaded, which name classes."""
    scalar = import_module("numpy._core.multiarray").scalar  # of numbers among the parameters of the training
    allowed: list[Any] = [Fraction, np.dtype, scalar, (scalar, "numpy.core.multiarray.scalar")]
    allowed += {type(np.dtype(kind)) for kind in "bhilqBHILQefd?"}
    for path in _NETWORKS:
        module, name = path.split(".")
        network = getattr(import_module(f"{_DEMUCS}.{module}"), name)
        allowed += [network, (network, f"demucs.{path}")]
    for path in _QUANTIZERS:
        allowed.append((getattr(import_module("diffq"), path.split(".")[1]), f"diffq.{path}"))
    return torch.serialization.safe_globals(allowed)


def _diffq_substitute() -> ModuleType:
    """Return a module that lets audio-separator import Demucs, and refuses quantized weights."""

    def restore_quantized_state(*_: object) -> NoReturn:
        raise PermanentError(
            "the weights of this model are quantised with diffq, which is not available for this version of Python: "
            "use a processor with Python 3.11 or 3.12, or the model's full weights",
            code=ErrorCode.MODEL_INVALID,
        )

    module: Any = ModuleType("diffq")
    module.restore_quantized_state = restore_quantized_state
    for path in _QUANTIZERS:
        name = path.split(".")[1]
        setattr(module, name, type(name, (), {}))
    return module  # type: ignore[no-any-return]
