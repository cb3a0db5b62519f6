"""What others have written down about models: audio-separator's bundled data, UVR's list, and ``known.json`` of ours.

Read as files: nobody needs to import audio-separator, which takes seconds and brings torch, to know what there is.
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

#: UVR's list of models, as it lies in MODEL_FILE_DIR.
UVR_LIST = "download_checks.json"

_UVR_DATA = "https://raw.githubusercontent.com/TRvlvr/application_data/main"

#: What audio-separator looks up beside the models, and where it has it from. These say how a model is to be used, are
#: public, and are needed to know what there is: they are never sealed.
LISTS: Mapping[str, str] = {
    UVR_LIST: f"{_UVR_DATA}/filelists/{UVR_LIST}",
    "mdx_model_data.json": f"{_UVR_DATA}/mdx_model_data/model_data_new.json",
    "vr_model_data.json": f"{_UVR_DATA}/vr_model_data/model_data_new.json",
}


@functools.cache
def bundled(name: str) -> dict[str, Any]:
    """A data file of the installed audio-separator; empty if the package is not installed or has no such file."""
    package = find_spec("audio_separator")
    for folder in (package.submodule_search_locations or ()) if package else ():
        if content := _object(Path(folder) / name):
            return content
    return {}


@functools.cache
def known() -> dict[str, Any]:
    """Our own data file."""
    return dict(json.loads(Path(__file__).with_name("known.json").read_text()))


def uvr_list(folder: Path) -> dict[str, Any] | None:
    """UVR's list in ``folder``; None if it is not there, or is no list."""
    content = _object(folder / UVR_LIST)
    return content or None


def _object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        log.warning("list_of_models_unreadable", file=path.name, error=type(error).__name__)
        return {}
    return content if isinstance(content, dict) else {}
