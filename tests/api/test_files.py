"""``GET /files/...``: stems of the local store under signed links that expire."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from config import Settings
from pipeline.storage.signed_links import LinkSigner, load_or_create_key
from tests.api.conftest import Service, serve
from tests.api.http_client import Client

KEY = "5f1c9f2e-0000-4000-8000-000000000000_vocals.wav"
CONTENT = bytes(range(256)) * 4


@pytest.fixture
def link(service: Service, tmp_path: Path) -> str:
    """The path and query of a link to a stem, as the webhook contains it."""
    return put(service, tmp_path, KEY)


def put(service: Service, tmp_path: Path, key: str) -> str:
    source = tmp_path / "source"
    source.write_bytes(CONTENT)
    service.store.put(key, source, content_type="audio/wav")
    url = urlsplit(service.store.url(key))
    return f"{url.path}?{url.query}"


@pytest.mark.parametrize(("key", "kind"), [("a_vocals.wav", "audio/wav"), ("b/c_vocals.flac", "audio/flac")])
def test_a_signed_link_serves_the_stem(service: Service, tmp_path: Path, key: str, kind: str) -> None:
    answer = service.client.get(put(service, tmp_path, key))

    assert (answer.status, answer.body) == (200, CONTENT)
    assert answer.headers["content-type"] == kind
    assert answer.headers["content-length"] == str(len(CONTENT))
    assert answer.headers["accept-ranges"] == "bytes"
    assert answer.headers["content-disposition"] == f'attachment; filename="{key.rpartition("/")[2]}"'
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_head_request(client: Client, link: str) -> None:
    answer = client.request("HEAD", link, headers={"Authorization": None})

    assert (answer.status, answer.body) == (200, b"")
    assert answer.headers["content-length"] == str(len(CONTENT))


@pytest.mark.parametrize(
    ("asked", "given", "content"),
    [
        ("bytes=0-9", "bytes 0-9/1024", CONTENT[:10]),
        ("bytes=1000-", "bytes 1000-1023/1024", CONTENT[1000:]),
        ("bytes=-5", "bytes 1019-1023/1024", CONTENT[-5:]),
    ],
)
def test_a_range_resumes_a_download(client: Client, link: str, asked: str, given: str, content: bytes) -> None:
    answer = client.get(link, Range=asked)

    assert (answer.status, answer.headers["content-range"], answer.body) == (206, given, content)


def test_a_changed_file_is_sent_whole(client: Client, link: str) -> None:
    etag = client.get(link).headers["etag"]

    assert client.get(link, Range="bytes=5-", **{"If-Range": etag}).status == 206
    assert client.get(link, Range="bytes=5-", **{"If-Range": '"other"'}).status == 200


def test_a_range_outside_the_file_is_refused(client: Client, link: str) -> None:
    answer = client.get(link, Range="bytes=2000-")

    assert (answer.status, answer.json["error"]) == (416, "The range lies outside the file")
    assert answer.headers["content-range"] == "bytes */1024"


def test_a_malformed_range_is_refused(client: Client, link: str) -> None:
    answer = client.get(link, Range="bytes=x-y")

    assert (answer.status, answer.json["error"]) == (400, "The Range header is malformed")


def _forged(link: str) -> dict[str, str]:
    path, _, query = link.partition("?")
    fields = {name: values[0] for name, values in parse_qs(query).items()}
    expires, signature = fields["expires"], fields["signature"]
    return {
        "no query": path,
        "no signature": f"{path}?expires={expires}",
        "no end": f"{path}?signature={signature}",
        "later end": f"{path}?expires={int(expires) + 1}&signature={signature}",
        "end is no number": f"{path}?expires=never&signature={signature}",
        "end is endless": f"{path}?expires={'9' * 6000}&signature={signature}",
        "cut signature": f"{path}?expires={expires}&signature={signature[:-1]}",
        "not ASCII": f"{path}?expires={expires}&signature=%C3%A4",
        "another key": f"{path}x?expires={expires}&signature={signature}",
        "above": f"/files/../{KEY}?expires={expires}&signature={signature}",
        "encoded above": f"/files/%2e%2e%2f{KEY}?expires={expires}&signature={signature}",
        "absolute": f"/files//etc/passwd?expires={expires}&signature={signature}",
    }


@pytest.mark.parametrize("forgery", list(_forged("/files/x?expires=1&signature=x")))
def test_a_forged_link_is_refused(client: Client, link: str, forgery: str) -> None:
    answer = client.get(_forged(link)[forgery])

    assert (answer.status, answer.json["error"]) == (403, "The link is not valid or has expired")


def test_a_link_expires(service: Service, link: str) -> None:
    signer = LinkSigner(load_or_create_key(service.settings.state.link_key_file))
    now = int(time.time())

    assert service.client.get(f"/files/{KEY}?{signer.sign(KEY, now + 60)}").status == 200
    assert service.client.get(f"/files/{KEY}?{signer.sign(KEY, now)}").status == 403


def test_a_deleted_stem_is_not_found(service: Service, link: str) -> None:
    service.store.delete(KEY)

    answer = service.client.get(link)

    assert (answer.status, answer.json["error"]) == (404, "The file is not there any more")


def test_a_disk_error_is_not_reported_as_a_missing_file(service: Service, tmp_path: Path) -> None:
    link = put(service, tmp_path, "looped.wav")
    stem = service.settings.state.stems_dir / "looped.wav"
    stem.unlink()
    stem.symlink_to(stem)  # too many levels of symbolic links: an error other than "no such file"

    answer = service.client.get(link)

    assert (answer.status, answer.json["error"]) == (503, "A part of the service does not answer")
    assert answer.json["details"] == {"code": "storage_unavailable"}
    assert "retry-after" in answer.headers


def test_a_correctly_signed_key_cannot_leave_the_store(service: Service) -> None:
    signer = LinkSigner(load_or_create_key(service.settings.state.link_key_file))
    key = "..%2fbroker.sqlite"

    answer = service.client.get(f"/files/{key}?{signer.sign('../broker.sqlite', int(time.time()) + 60)}")

    assert answer.status == 404


@pytest.mark.parametrize("folder", ["outcomes", "staged", "handoff"])
def test_only_finished_stems_are_served_even_to_a_correct_signature(
    service: Service, tmp_path: Path, folder: str
) -> None:
    source = tmp_path / "source"
    source.write_bytes(CONTENT)
    service.store.put(f"{folder}/{KEY}", source, content_type="audio/wav")
    signer = LinkSigner(load_or_create_key(service.settings.state.link_key_file))

    answer = service.client.get(f"/files/{folder}/{KEY}?{signer.sign(f'{folder}/{KEY}', int(time.time()) + 60)}")

    assert (answer.status, answer.json["error"]) == (404, "The file is not there any more")


def test_the_route_does_not_exist_with_s3(make_settings: Callable[..., Settings]) -> None:
    settings = make_settings(STORAGE="s3", S3_BUCKET_NAME="stems", S3_ENDPOINT_URL="http://127.0.0.1:1")

    with serve(settings) as service:
        answer = service.client.get(f"/files/{KEY}?expires=1&signature=x")

        assert (answer.status, answer.json) == (404, {"error": "Endpoint not found"})
        assert "/files/{key}" not in service.client.get("/openapi.json").json["paths"]
