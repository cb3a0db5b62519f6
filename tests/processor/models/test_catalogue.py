"""The catalogue has the same models as audio-separator, without importing it."""

from __future__ import annotations

import json
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from demo.tiny_models import write_list
from pipeline.errors import ErrorCode, PermanentError
from processor.models.catalogue import ARCHITECTURES, lists_for, read_catalogue
from processor.models.model_lists import LISTS, UVR_LIST, known
from processor.models.published_hashes import contradicts_name, published
from tests.processor.separation import upstream_calls as calls

#: One model of each kind, and entries that lists from the network may contain.
UVR: dict[str, Any] = {
    "vr_download_list": {"VR Arch Single Model v5: 1_HP-UVR": "1_HP-UVR.pth"},
    "mdx_download_list": {"MDX-Net Model: Kim Vocal 2": "Kim_Vocal_2.onnx"},
    "mdx_download_vip_list": {"MDX-Net Model VIP: UVR-MDX-NET_Main_340": "UVR-MDX-NET_Main_340.onnx"},
    "demucs_download_list": {
        "Demucs v4: htdemucs": {
            "955717e8-8726e21a.th": "https://dl.fbaipublicfiles.com/demucs/hybrid_transformer/955717e8-8726e21a.th",
            "htdemucs.yaml": "https://dl.fbaipublicfiles.com/somewhere/htdemucs.yaml",
        },
        "Demucs v3: mdx": {"mdx.yaml": "https://example.org/mdx.yaml"},
    },
    "mdx23c_download_vip_list": {"MDX23C Model VIP: MDX23C_D1581": {"MDX23C_D1581.ckpt": "model_2_stem_061321.yaml"}},
    "roformer_download_list": {"Roformer Model: mine": {"mine.ckpt": "shared.yaml"}},
}


@pytest.mark.slow
def test_catalogue_equals_audio_separators_list(upstream_process: ProcessPoolExecutor, tmp_path: Path) -> None:
    write_list(tmp_path / "models", **UVR)
    theirs = upstream_process.submit(calls.listed, tmp_path / "models", tmp_path).result(60)
    ours = read_catalogue(tmp_path / "models")
    requested = upstream_process.submit(calls.requested_urls, tmp_path / "models", tmp_path, list(theirs)).result(60)

    assert ours.has_uvr_list
    assert list(ours.models) == list(theirs)
    for model in ours:
        title, architecture, files, stems = theirs[model.name]
        assert (model.title, model.architecture, model.stems) == (title, architecture, stems)
        assert [file.name for file in model.files] == [file.rsplit("/", 1)[-1] for file in files]
        assert tuple(url for file in model.files for url in file.urls) == requested[model.name]


def test_catalogue_without_uvrs_list_has_bundled_models(tmp_path: Path) -> None:
    catalogue = read_catalogue(tmp_path)
    assert not catalogue.has_uvr_list
    assert {model.architecture for model in catalogue} == set(ARCHITECTURES)
    assert len(catalogue.models) > 150
    ft = catalogue.find("htdemucs_ft.yaml")
    assert len(ft.files) == 5
    assert set(ft.stems) == {"vocals", "drums", "bass", "other"}


def test_model_is_found_by_any_of_its_files(tmp_path: Path) -> None:
    catalogue = read_catalogue(tmp_path)
    assert catalogue.find("955717e8-8726e21a.th").name == "htdemucs.yaml"
    with pytest.raises(PermanentError) as caught:
        catalogue.find("no-such-model.onnx")
    assert caught.value.code is ErrorCode.MODEL_UNKNOWN


def test_catalogue_has_published_hashes(tmp_path: Path) -> None:
    (file,) = read_catalogue(tmp_path).find("UVR-MDX-NET-Inst_HQ_4.onnx").files
    assert (file.sha256, file.bytes) == published(file.name)
    assert file.bytes == 59074342
    assert [url.split("/")[3] for url in file.urls] == ["TRvlvr", "nomadkaraoke"]


def test_known_json_is_well_formed() -> None:
    for name, entry in known()["files"].items():
        assert entry.keys() == {"bytes", "sha256"}
        assert len(bytes.fromhex(entry["sha256"])) == 32
        assert not contradicts_name(name, entry["sha256"])
    assert contradicts_name("955717e8-8726e21a.th", "0" * 64)


@pytest.mark.parametrize("name", ["../../etc/passwd", "a/b.onnx", "..", ".hidden", "back\\slash.onnx", "", 7, None])
def test_names_outside_the_folder_are_rejected(tmp_path: Path, name: object) -> None:
    lists = {"mdx_download_list": {"MDX-Net Model: bad": name, "MDX-Net Model: good": "good.onnx"}}
    (tmp_path / UVR_LIST).write_text(json.dumps(lists))
    mdx = [model.name for model in read_catalogue(tmp_path) if model.architecture == "MDX"]
    assert "good.onnx" in mdx
    assert name not in mdx


@pytest.mark.parametrize(
    "content", ["", "[]", "{", '{"vr_download_list": 3, "demucs_download_list": {"Demucs v4": 1}}']
)
def test_damaged_list_is_ignored(tmp_path: Path, content: str) -> None:
    (tmp_path / UVR_LIST).write_text(content)
    assert read_catalogue(tmp_path).models


def test_required_lists_of_a_model(tmp_path: Path) -> None:
    catalogue = read_catalogue(tmp_path)
    needed = {
        name: [file.name for file in lists_for(catalogue.find(name))] for name in ("htdemucs.yaml", "1_HP-UVR.pth")
    }
    assert needed == {"htdemucs.yaml": [UVR_LIST], "1_HP-UVR.pth": list(LISTS)}
