from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from config import SECTIONS, Settings, load
from pipeline.storage.factory import open_handoff, open_store
from pipeline.storage.local.store import LocalStore
from pipeline.storage.s3.store import S3Store
from pipeline.storage.signed_links import LinkSigner, load_or_create_key

KEY = "task_vocals.wav"
BUCKET = {"S3_BUCKET_NAME": "stems", "AWS_ACCESS_KEY_ID": "KEYID", "AWS_SECRET_ACCESS_KEY": "s3cret"}
MakeSettings = Callable[..., Settings]


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> MakeSettings:
    """Return a factory of settings from an environment with the given variables only."""

    def make(**variables: str) -> Settings:
        for section in SECTIONS:
            for field in section.model_fields.values():
                monkeypatch.delenv(str(field.alias), raising=False)
        for name, value in {"DATA_DIR": str(tmp_path / "data"), **variables}.items():
            monkeypatch.setenv(name, value)
        return load(None)

    return make


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(b"stem")
    return path


def test_store_without_a_bucket_is_local_with_signed_links(settings: MakeSettings, file: Path) -> None:
    chosen = settings()
    store = open_store(chosen)
    assert isinstance(store, LocalStore)
    store.put(KEY, file, content_type="audio/wav")
    assert (chosen.state.stems_dir / KEY).read_bytes() == b"stem"
    parts = urlsplit(store.url(KEY))
    query = parse_qs(parts.query)
    signer = LinkSigner(load_or_create_key(chosen.state.link_key_file))
    assert parts.netloc == "127.0.0.1:8000"
    assert signer.verify(KEY, int(query["expires"][0]), query["signature"][0], now=0)


@pytest.mark.parametrize(
    ("variables", "address"),
    [
        ({"API_HOST": "0.0.0.0", "API_PORT": "9000"}, "http://127.0.0.1:9000"),
        ({"API_HOST": "::"}, "http://127.0.0.1:8000"),
        ({"API_HOST": "::1"}, "http://[::1]:8000"),
        ({"API_HOST": "stems.lan"}, "http://stems.lan:8000"),
        ({"RESULT_BASE_URL": "https://api.example.com/uvr/"}, "https://api.example.com/uvr"),
    ],
)
def test_local_links_point_to_the_api(settings: MakeSettings, variables: dict[str, str], address: str) -> None:
    assert open_store(settings(**variables)).url(KEY).startswith(f"{address}/files/{KEY}?")


def test_store_with_a_bucket_is_s3_and_the_hand_off_stays_local(settings: MakeSettings) -> None:
    chosen = settings(**BUCKET, S3_ENDPOINT_URL="http://127.0.0.1:9", RESULT_URL_TTL="60")
    store = open_store(chosen)
    assert isinstance(store, S3Store)
    assert store.url(KEY).startswith(f"http://127.0.0.1:9/stems/{KEY}?")
    assert "X-Amz-Expires=60" in store.url(KEY)
    assert isinstance(open_handoff(chosen), LocalStore)
    assert not chosen.state.data_dir.exists()


def test_engines_can_be_selected_explicitly(settings: MakeSettings, file: Path) -> None:
    chosen = settings(**BUCKET, STORAGE="local", HANDOFF="s3")
    assert isinstance(open_store(chosen), LocalStore)
    assert isinstance(open_handoff(chosen), S3Store)


def test_local_hand_off_has_its_own_folder(settings: MakeSettings, file: Path) -> None:
    chosen = settings()
    open_handoff(chosen).put("handoff/task/vocals.wav", file, content_type="audio/wav")
    assert (chosen.state.handoff_dir / "handoff/task/vocals.wav").exists()
    assert open_store(chosen).stat("handoff/task/vocals.wav") is None
