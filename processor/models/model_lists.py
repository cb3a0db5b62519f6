"""The lists of models: those that this project bundles, audio-separator's, and an operator's in MODEL_FILE_DIR.

``lists/`` has UVR's three lists, pinned: its models, and the parameters of MDX and VR models by the hash of their file.
They need no network. audio-separator's are read as files, because to import the package takes seconds and loads torch.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pipeline.service.logs import get_logger

log = get_logger(__name__)

#: The name of UVR's list of models.
UVR_LIST = "download_checks.json"
MDX_PARAMETERS = "mdx_model_data.json"
VR_PARAMETERS = "vr_model_data.json"

_UVR_DATA = "https://raw.githubusercontent.com/TRvlvr/application_data/main"

#: UVR's lists and their addresses, where an operator can have newer ones. They are public and never encrypted.
LISTS: Mapping[str, str] = {
    UVR_LIST: f"{_UVR_DATA}/filelists/{UVR_LIST}",
    MDX_PARAMETERS: f"{_UVR_DATA}/mdx_model_data/model_data_new.json",
    VR_PARAMETERS: f"{_UVR_DATA}/vr_model_data/model_data_new.json",
}


@functools.cache
def upstream_data(name: str) -> dict[str, Any]:
    """Return a data file of audio-separator; empty if the package is not installed or has no such file."""
    package = find_spec("audio_separator")
    for folder in (package.submodule_search_locations or ()) if package else ():
        if content := _read_object(Path(folder) / name):
            return content
    return {}


@functools.cache
def pinned_list(name: str) -> dict[str, Any]:
    """Return one of the lists that this project bundles."""
    return dict(json.loads((Path(__file__).parent / "lists" / name).read_text()))


@functools.cache
def known() -> dict[str, Any]:
    """Return this project's own data file."""
    return dict(json.loads(Path(__file__).with_name("known.json").read_text()))


def operator_list(folder: Path, name: str) -> dict[str, Any]:
    """Return the list ``name`` in ``folder``; empty if it is missing or damaged."""
    return _read_object(folder / name)


def parameters(folder: Path) -> dict[str, Any]:
    """Return the parameters of MDX and VR models by the hash of their file. An operator's list only adds to them."""
    upstream = upstream_data("model-data.json")
    return {
        **operator_list(folder, VR_PARAMETERS),
        **operator_list(folder, MDX_PARAMETERS),
        **pinned_list(VR_PARAMETERS),
        **upstream.get("vr_model_data", {}),
        **pinned_list(MDX_PARAMETERS),
        **upstream.get("mdx_model_data", {}),
    }


def _read_object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        log.warning("model_list_unreadable", file=path.name, error=type(error).__name__)
        return {}
    return content if isinstance(content, dict) else {}
