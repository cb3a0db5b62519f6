"""The OpenAPI document and the page that shows it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

import api
from api.errors import ApiError
from api.models import GenerateRequest
from api.request_parsing import client_name
from pipeline.model_choice import Algorithm
from tests.api.http_client import Client

#: The statuses of each call, from the contract.
CALLS = {
    ("post", "/generate"): {202, 400, 401, 403, 413, 422, 429, 500, 503},
    ("get", "/health"): {200},
    ("get", "/ready"): {200, 503},
    ("get", "/metrics"): {200},
    ("get", "/files/{key}"): {200, 206, 403, 404, 416, 500},
}


@pytest.fixture
def document(client: Client) -> dict[str, Any]:
    document: dict[str, Any] = client.get("/openapi.json").json
    return document


def test_every_call_is_documented_with_every_status(document: dict[str, Any]) -> None:
    found = {
        (method, path): {int(status) for status in operation["responses"] if status.isdecimal()}
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    }

    assert found == CALLS


def test_every_error_has_the_same_form(document: dict[str, Any]) -> None:
    for operations in document["paths"].values():
        for path_operation in operations.values():
            for status, response in path_operation["responses"].items():
                is_readiness = path_operation["summary"].startswith("Can jobs")
                if status.isdecimal() and int(status) >= 400 and not is_readiness:
                    schema = response["content"]["application/json"]["schema"]
                    assert schema == {"$ref": "#/components/schemas/ErrorBody"}

    form = document["components"]["schemas"]["ErrorBody"]
    assert set(form["properties"]) == {"error", "details"}
    assert form["required"] == ["error"]


def test_every_reference_resolves(document: dict[str, Any]) -> None:
    def references(node: object) -> Iterator[str]:
        if isinstance(node, dict):
            if isinstance(node.get("$ref"), str):
                yield node["$ref"]
            for child in node.values():
                yield from references(child)
        elif isinstance(node, list):
            for child in node:
                yield from references(child)

    for reference in references(document):
        target: Any = document
        for step in reference.removeprefix("#/").split("/"):
            target = target[step]
        assert target


def test_only_jobs_need_credentials(document: dict[str, Any]) -> None:
    assert document["components"]["securitySchemes"]["Basic"]["scheme"] == "basic"
    assert document["paths"]["/generate"]["post"]["security"] == [{"Basic": []}]
    for path in ("/health", "/ready", "/metrics", "/files/{key}"):
        assert "security" not in document["paths"][path]["get"]


def test_the_examples_of_the_body_are_valid(document: dict[str, Any]) -> None:
    schema = document["paths"]["/generate"]["post"]["requestBody"]["content"]["application/json"]["schema"]

    assert schema["required"] == ["audio", "hook_url"]
    formats = ["wav", "wav16", "wav24", "wav32f", "flac", "flac16", "flac24"]
    assert schema["properties"]["output_format"]["enum"] == formats
    assert schema["properties"]["sample_rate"]["enum"] == ["source", 44100, 48000]
    priority = schema["properties"]["priority"]
    assert (priority["type"], priority["minimum"], priority["maximum"], priority["default"]) == ("integer", 1, 5, 3)
    assert all("description" in field for field in schema["properties"].values())
    name, ensemble = schema["properties"]["model"]["anyOf"][0]["oneOf"]
    assert re.search(name["pattern"], "UVR-MDX-NET-Inst_HQ_4.onnx")
    assert ensemble["properties"]["algorithm"]["enum"] == list(Algorithm)
    assert schema["examples"]
    for example in schema["examples"]:
        GenerateRequest.model_validate(example)


def test_the_pattern_of_the_client_name_matches_its_validation(document: dict[str, Any]) -> None:
    header, _ = document["paths"]["/generate"]["post"]["parameters"]

    assert (header["name"], header["in"], header["required"]) == ("X-Client-Id", "header", False)
    for name in ("a", "~" * 128, "Team 7 (night shift)", "", "~" * 129, "käse", "a\tb"):
        documented = re.search(header["schema"]["pattern"], name) is not None
        try:
            accepted = client_name([name], "https://app.example.com/") == name
        except ApiError:
            accepted = False
        assert accepted == documented, name


def test_the_documentation_page_needs_no_internet(client: Client) -> None:
    page = client.get("/docs").body.decode()

    assets = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert assets
    for asset in assets:
        assert asset.startswith("/")
        assert client.get(asset).status == 200
    assert not re.search(r"https?://", page)


def test_the_version_is_that_of_the_project(document: dict[str, Any], pytestconfig: pytest.Config) -> None:
    project = (pytestconfig.rootpath / "pyproject.toml").read_text("utf-8")

    assert document["info"]["version"] == api.__version__
    assert f'version = "{api.__version__}"' in project
