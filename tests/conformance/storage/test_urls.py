"""Tests of links, fetched by a client without credentials."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import pytest
import requests
from fastapi import FastAPI

from api.errors import install_error_handlers
from api.files import files_router
from pipeline.errors import ErrorCode, PermanentError
from pipeline.storage import ObjectStore
from pipeline.storage.local.store import LocalStore
from pipeline.storage.object_keys import PRIVATE_PREFIXES
from tests.api.http_client import serving
from tests.conformance.storage.backends import SIGNER, StoreLocation, local_location
from tests.conformance.storage.test_promises import MakeFile

KEY = "6f1c3e0a-8a55-4c43-a8f0-0a4a3e3f0d11_vocals.wav"
CONTENT = b"RIFF" * 50_000


@pytest.fixture
def store(location: StoreLocation) -> Iterator[ObjectStore]:
    """Yield a store with reachable links: an S3 server has its own endpoint; the API serves local files."""
    if location.engine != "local":
        yield location.open()
        return
    root = Path(location.options["root"])
    app = FastAPI()
    install_error_handlers(app)
    app.include_router(files_router(LocalStore(root), SIGNER))
    with serving(app, ("", "")) as client:
        yield local_location(root, f"http://127.0.0.1:{client.port}").open()


def fetch(url: str) -> requests.Response:
    return requests.get(url, timeout=20)


def test_link_returns_the_object(store: ObjectStore, make_file: MakeFile) -> None:
    store.put(KEY, make_file(CONTENT), content_type="audio/wav")
    answer = fetch(store.url(KEY))
    assert (answer.status_code, answer.content) == (200, CONTENT)
    assert answer.headers["Content-Type"] == "audio/wav"


def test_link_is_valid_for_one_object_only(store: ObjectStore, make_file: MakeFile) -> None:
    other = KEY.replace("vocals", "instrumental")
    for key in (KEY, other):
        store.put(key, make_file(CONTENT), content_type="audio/wav")
    parts = urlsplit(store.url(KEY))
    assert fetch(urlunsplit(parts._replace(query=""))).status_code == 403
    assert fetch(urlunsplit(parts._replace(path=parts.path.replace(KEY, other)))).status_code == 403


@pytest.mark.parametrize("folder", PRIVATE_PREFIXES)
def test_no_link_leads_to_an_object_for_the_services(store: ObjectStore, folder: str) -> None:
    with pytest.raises(PermanentError) as caught:
        store.url(f"{folder}{KEY}")
    assert caught.value.code is ErrorCode.STORAGE_REFUSED


def test_link_of_a_missing_object_returns_404(store: ObjectStore) -> None:
    assert fetch(store.url(KEY)).status_code == 404
