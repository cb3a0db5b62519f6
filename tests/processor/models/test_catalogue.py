"""The catalogue has the same models as audio-separator, without importing it."""

from __future__ import annotations

import json
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from demo.tiny_models import write_list
from pipeline.errors import ErrorCode, PermanentError
from processor.models.catalogue import ARCHITECTURES, read_catalogue
from processor.models.model_lists import UVR_LIST, known, parameters, pinned_list
from processor.models.published_hashes import contradicts_name, published
from tests.processor.separation import upstream_calls as calls


@pytest.mark.slow
def test_catalogue_equals_audio_separators_list(upstream_process: ProcessPoolExecutor, tmp_path: Path) -> None:
    write_list(tmp_path / "models", **pinned_list(UVR_LIST))
    theirs = upstream_process.submit(calls.listed, tmp_path / "models", tmp_path).result(60)
    ours = read_catalogue(tmp_path / "models")
    requested = upstream_process.submit(calls.requested_urls, tmp_path / "models", tmp_path, list(theirs)).result(60)

    assert list(ours.models) == list(theirs)
    assert {model.architecture for model in ours} == set(ARCHITECTURES)
    for model in ours:
        title, architecture, files, stems = theirs[model.name]
        assert (model.title, model.architecture, model.stems) == (title, architecture, stems)
        assert [file.name for file in model.files] == [file.rsplit("/", 1)[-1] for file in files]
        assert tuple(url for file in model.files for url in file.urls) == requested[model.name]


def test_catalogue_needs_no_file_in_the_folder(tmp_path: Path) -> None:
    catalogue = read_catalogue(tmp_path)
    assert len(catalogue.models) == 169
    ft = catalogue.find("htdemucs_ft.yaml")
    assert len(ft.files) == 5
    assert set(ft.stems) == {"vocals", "drums", "bass", "other"}
    assert all(url.startswith("https://") for file in catalogue.files().values() for url in file.urls)


def test_operators_list_adds_models_and_changes_none(tmp_path: Path) -> None:
    """Neither the address of a bundled file nor the files of a bundled model."""
    elsewhere = "https://elsewhere.example"
    weights, of_bag = "955717e8-8726e21a.th", "MDX23C-8KFFT-InstVoc_HQ.ckpt"
    lists = {
        "mdx_download_list": {"MDX-Net Model: mine": "mine.onnx"},
        "demucs_download_list": {
            "Demucs v4: htdemucs": {"x.th": f"{elsewhere}/x.th", "htdemucs.yaml": f"{elsewhere}/htdemucs.yaml"},
            "Demucs v4: mine": {weights: f"{elsewhere}/{weights}", "mine.yaml": f"{elsewhere}/mine.yaml"},
        },
        "roformer_download_list": {"Roformer Model: mine": {f"{elsewhere}/{of_bag}": "mine.yaml"}},
    }
    bundled = read_catalogue(tmp_path)
    (tmp_path / UVR_LIST).write_text(json.dumps(lists))
    catalogue = read_catalogue(tmp_path)

    assert list(catalogue.models)[: len(bundled.models)] == list(bundled.models)
    assert [catalogue.models[name] for name in bundled.models] == list(bundled)
    assert list(catalogue.models)[len(bundled.models) :] == ["mine.onnx", "mine.yaml"]
    assert catalogue.find("mine.yaml").files[0] == bundled.files()[weights]
    assert catalogue.files()["mine.yaml"].urls == (f"{elsewhere}/mine.yaml",)


def test_operators_parameters_add_to_the_bundled_ones(tmp_path: Path) -> None:
    hq_4 = "0f2a6bc5b49d87d64728ee40e23bceb1"
    bundled = parameters(tmp_path)
    assert bundled[hq_4]["compensate"] == 1.019
    (tmp_path / "mdx_model_data.json").write_text(json.dumps({hq_4: {"compensate": 7}, "new": {"compensate": 1}}))
    (tmp_path / "vr_model_data.json").write_text("damaged")
    assert parameters(tmp_path) == bundled | {"new": {"compensate": 1}}


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


def test_known_json_is_well_formed(tmp_path: Path) -> None:
    files = read_catalogue(tmp_path).files()
    assert len(known()["files"]) == 108
    for name, entry in known()["files"].items():
        assert (files[name].sha256, files[name].bytes) == (entry["sha256"], entry["bytes"])
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
