"""The lists of models: audio-separator's bundled data, UVR's list, and this project's ``known.json``.

The bundled data are read as files. To import audio-separator takes seconds and loads torch.
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

#: The name of UVR's list of models in MODEL_FILE_DIR.
UVR_LIST = "download_checks.json"

_UVR_DATA = "https://raw.githubusercontent.com/TRvlvr/application_data/main"

#: The lists that audio-separator reads from the folder of models, and their addresses. They describe the use of models,
#: are public, and are needed to list the models: they are never encrypted.
LISTS: Mapping[str, str] = {
    UVR_LIST: f"{_UVR_DATA}/filelists/{UVR_LIST}",
    "mdx_model_data.json": f"{_UVR_DATA}/mdx_model_data/model_data_new.json",
    "vr_model_data.json": f"{_UVR_DATA}/vr_model_data/model_data_new.json",
}


@functools.cache
def bundled(name: str) -> dict[str, Any]:
    """Return a data file of audio-separator; empty if the package is not installed or has no such file."""
    package = find_spec("audio_separator")
    for folder in (package.submodule_search_locations or ()) if package else ():
        if content := _read_object(Path(folder) / name):
            return content
    return {}


@functools.cache
def known() -> dict[str, Any]:
    """Return this project's own data file."""
    return dict(json.loads(Path(__file__).with_name("known.json").read_text()))


def uvr_list(folder: Path) -> dict[str, Any] | None:
    """Return UVR's list in ``folder``; None if it is missing or damaged."""
    content = _read_object(folder / UVR_LIST)
    return content or None


def _read_object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        log.warning("model_list_unreadable", file=path.name, error=type(error).__name__)
        return {}
    return content if isinstance(content, dict) else {}
