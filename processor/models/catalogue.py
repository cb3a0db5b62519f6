"""The catalogue of models: their files, the files' addresses, and their known sizes, hashes and licences.

It has the same models, files and addresses as audio-separator's own list; a test compares them. An operator's list in
MODEL_FILE_DIR adds models to it, and never changes a bundled model or the address of one of its files.
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

#: Valid names of files. A list may be downloaded: a name that leads out of the folder is rejected.
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
    """The models that the lists name, in their order, the bundled ones first."""

    models: Mapping[str, Model]

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


def read_catalogue(folder: Path) -> Catalogue:
    """Return the bundled models, and those that the operator's list in ``folder`` adds."""
    uvr, own = model_lists.pinned_list(model_lists.UVR_LIST), model_lists.upstream_data("models.json")
    bundled = Catalogue(_models(_entries(uvr, own), known={}))
    additions = _entries(model_lists.operator_list(folder, model_lists.UVR_LIST), {})
    added = _models(additions, known=bundled.files())
    return Catalogue({**bundled.models, **added, **bundled.models})


_Entry = tuple[str, str, list[str]]
"""Architecture, title and parts: the names or addresses of files. The first part, or Demucs' YAML, names the model."""


def _entries(uvr: Mapping[str, Any], own: Mapping[str, Any]) -> Iterator[_Entry]:
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


def _models(entries: Iterable[_Entry], known: Mapping[str, ModelFile]) -> dict[str, Model]:
    """Return the models of the valid entries by name; of equal names, the first. The files in ``known`` are kept."""
    found: dict[str, Model] = {}
    for architecture, title, parts in entries:
        files = tuple(_file(architecture, title, part) for part in dict.fromkeys(parts) if isinstance(part, str))
        if not files or not all(_PLAIN_NAME.fullmatch(file.name) for file in files):
            continue
        name = files[0].name
        if architecture == "Demucs":
            name = next((file.name for file in files if file.name.endswith(".yaml")), "")
        if name and name not in found:
            files = tuple(known.get(file.name, file) for file in files)
            found[name] = Model(name, title, architecture, files, _stems(name), _licence(title))
    return found


def _stems(name: str) -> tuple[str, ...]:
    return tuple(model_lists.upstream_data("models-scores.json").get(name, {}).get("stems") or ())


def _licence(title: str) -> str | None:
    return next((text for start, text in model_lists.known()["licences"].items() if title.startswith(start)), None)


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
