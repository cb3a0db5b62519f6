"""Links are fetched by a client that holds nothing but the link."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import pytest
import requests
from fastapi import FastAPI

from api.errors import install_error_handlers
from api.files import files_router
from pipeline.storage import ObjectStore
from pipeline.storage.local.store import LocalStore
from tests.api.http_client import serving
from tests.conformance.storage.backends import SIGNER, Place, local_place
from tests.conformance.storage.test_promises import MakeFile

KEY = "6f1c3e0a-8a55-4c43-a8f0-0a4a3e3f0d11_vocals.wav"
CONTENT = b"RIFF" * 50_000


@pytest.fixture
def store(place: Place) -> Iterator[ObjectStore]:
    """A store whose links lead somewhere: an S3 server has its own HTTP, for local files it is the API's."""
    if place.engine != "local":
        yield place.open()
        return
    root = Path(place.options["root"])
    app = FastAPI()
    install_error_handlers(app)
    app.include_router(files_router(LocalStore(root), SIGNER))
    with serving(app, ("", "")) as client:
        yield local_place(root, f"http://127.0.0.1:{client.port}").open()


def fetch(url: str) -> requests.Response:
    return requests.get(url, timeout=20)


def test_a_link_gives_the_object(store: ObjectStore, make_file: MakeFile) -> None:
    store.put(KEY, make_file(CONTENT), content_type="audio/wav")
    answer = fetch(store.url(KEY))
    assert (answer.status_code, answer.content) == (200, CONTENT)
    assert answer.headers["Content-Type"] == "audio/wav"


def test_a_link_is_for_one_object_only(store: ObjectStore, make_file: MakeFile) -> None:
    other = KEY.replace("vocals", "instrumental")
    for key in (KEY, other):
        store.put(key, make_file(CONTENT), content_type="audio/wav")
    parts = urlsplit(store.url(KEY))
    assert fetch(urlunsplit(parts._replace(query=""))).status_code == 403
    assert fetch(urlunsplit(parts._replace(path=parts.path.replace(KEY, other)))).status_code == 403


def test_the_link_of_a_missing_object_gives_404(store: ObjectStore) -> None:
    assert fetch(store.url(KEY)).status_code == 404
