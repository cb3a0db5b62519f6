"""The catalogue of models: their files, the files' addresses, and their known sizes, hashes and licences.

It has the same models, files and addresses as audio-separator's own list; a test compares them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from processor.models import model_lists
from processor.models.errors import unknown_model
from processor.models.published_hashes import published

ARCHITECTURES = ("VR", "MDX", "Demucs", "MDXC")

_PUBLIC = "https://github.com/TRvlvr/model_repo/releases/download/all_public_uvr_models"
_VIP = "https://github.com/Anjok0109/ai_magic/releases/download/v5"
_CONFIGS = "https://github.com/nomadkaraoke/python-audio-separator/releases/download/model-configs"

#: The lists that name the models of an architecture: UVR's, and audio-separator's own.
_UVR_LISTS = {
    "VR": ("vr_download_list",),
    "MDX": ("mdx_download_list", "mdx_download_vip_list"),
    "MDXC": ("mdx23c_download_list", "mdx23c_download_vip_list", "roformer_download_list"),
}
_OWN_LISTS = {
    "VR": ("vr_download_list",),
    "MDX": ("mdx_download_list",),
    "MDXC": ("mdx23c_download_list", "roformer_download_list"),
}
_TITLES = {"VR Arch": "VR", "MDX-Net": "MDX", "Demucs v4": "Demucs", "MDX23C": "MDXC", "Roformer": "MDXC"}

#: Valid names of files. The lists are downloaded: a name that leads out of the folder is rejected.
_PLAIN_NAME = re.compile(r"[^/\\\x00-\x1f.][^/\\\x00-\x1f]{0,254}")


@dataclass(frozen=True, slots=True)
class ModelFile:
    """One file of a model."""

    name: str
    urls: tuple[str, ...]
    """The addresses, in the order in which they are tried."""
    bytes: int | None = None
    sha256: str | None = None
    """In hexadecimal; None if it is not published."""


@dataclass(frozen=True, slots=True)
class Model:
    """One model. Jobs refer to it by ``name``."""

    name: str
    title: str
    architecture: str
    files: tuple[ModelFile, ...]
    stems: tuple[str, ...]
    """The stems that the lists declare; empty if they declare none."""
    licence: str | None


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The models that the lists name, in their order."""

    models: Mapping[str, Model]
    has_uvr_list: bool
    """False if UVR's list is not in the folder, so that only the bundled data were used."""

    def __iter__(self) -> Iterator[Model]:
        return iter(self.models.values())

    def find(self, name: str) -> Model:
        """Return the model of this name, or with a file of this name. Raises PermanentError (``model_unknown``)."""
        if name in self.models:
            return self.models[name]
        for model in self:
            if any(file.name == name for file in model.files):
                return model
        raise unknown_model(name)

    def files(self) -> dict[str, ModelFile]:
        """Return every file of every model, and every list, by name."""
        files = {file.name: file for model in self for file in model.files}
        return files | {name: list_file(name) for name in model_lists.LISTS}


def list_file(name: str) -> ModelFile:
    """Return a list as a file to download. It has no expected hash, because lists grow."""
    return ModelFile(name, (model_lists.LISTS[name],))


def lists_for(model: Model) -> tuple[ModelFile, ...]:
    """Return the lists that audio-separator needs to load ``model``."""
    needed = model_lists.LISTS if model.architecture in ("VR", "MDX") else (model_lists.UVR_LIST,)
    return tuple(list_file(name) for name in needed)


def read_catalogue(folder: Path) -> Catalogue:
    """Return the models of the lists in ``folder`` and of the installed lists."""
    uvr = model_lists.uvr_list(folder)
    found: dict[str, Model] = {}
    entries = _from_lists(uvr) if uvr is not None else [*_from_lists({}), *_from_scores()]
    for architecture, title, parts in entries:
        model = _model(architecture, title, parts)
        if model is not None:
            found.setdefault(model.name, model)
    return Catalogue(found, has_uvr_list=uvr is not None)


_Entry = tuple[str, str, list[str]]
"""Architecture, title and parts: the names or addresses of files. The first part, or Demucs' YAML, names the model."""


def _from_lists(uvr: Mapping[str, Any]) -> Iterator[_Entry]:
    own = model_lists.bundled("models.json")
    for architecture in ARCHITECTURES:
        if architecture == "Demucs":
            for title, files in _as_mapping(uvr.get("demucs_download_list")).items():
                if title.startswith("Demucs v4") and isinstance(files, dict):
                    yield architecture, title, list(files.values())
            continue
        titles: dict[str, Any] = {}
        for lists, names in ((uvr, _UVR_LISTS), (own, _OWN_LISTS)):
            for name in names[architecture]:
                titles |= _as_mapping(lists.get(name))
        for title, parts in titles.items():
            yield architecture, title, [*parts, *parts.values()] if isinstance(parts, dict) else [parts]


def _from_scores() -> Iterator[_Entry]:
    """Yield UVR's models that audio-separator has measured and whose parts are known."""
    parts = model_lists.known()["parts"]
    for name, entry in model_lists.bundled("models-scores.json").items():
        title = str(entry.get("model_name"))
        architecture = next((kind for start, kind in _TITLES.items() if title.startswith(start)), None)
        if architecture in ("VR", "MDX"):
            yield architecture, title, [name]
        elif architecture and name in parts:
            yield architecture, title, parts[name]


def _model(architecture: str, title: str, parts: Iterable[Any]) -> Model | None:
    files = tuple(_file(architecture, title, part) for part in dict.fromkeys(parts) if isinstance(part, str))
    if not files or not all(_PLAIN_NAME.fullmatch(file.name) for file in files):
        return None
    name = files[0].name
    if architecture == "Demucs":
        name = next((file.name for file in files if file.name.endswith(".yaml")), "")
    scores = model_lists.bundled("models-scores.json").get(name, {})
    licences = model_lists.known()["licences"]
    licence = next((text for start, text in licences.items() if title.startswith(start)), None)
    return Model(name, title, architecture, files, tuple(scores.get("stems") or ()), licence) if name else None


def _file(architecture: str, title: str, part: str) -> ModelFile:
    urls: tuple[str, ...]
    if part.startswith("http"):
        name, urls = part.rsplit("/", 1)[-1], (part,)
    else:
        first = _VIP if "VIP" in title else _PUBLIC
        below = "/mdx_model_data/mdx_c_configs" if architecture == "MDXC" and part.endswith(".yaml") else ""
        name, urls = part, (f"{first}{below}/{part}", f"{_CONFIGS}/{part}")
    sha256, size = published(name)
    return ModelFile(name, urls, size, sha256)


def _as_mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
