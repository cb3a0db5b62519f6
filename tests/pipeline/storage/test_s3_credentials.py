"""Credentials and regions: keys of the settings, botocore's own chain, and the hosts of the links."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
import requests

from config import load
from devstack.processes.process import ServerProcess, free_port
from devstack.processes.server import server_environment
from devstack.s3 import S3Server, fetch_s3_server
from pipeline.errors import ErrorCode, InfrastructureError
from pipeline.storage.factory import s3_options
from pipeline.storage.s3.store import S3Options, S3Store
from tests.pipeline.storage.gateway import gateway
from tests.support.buckets import new_bucket
from tests.support.servers import require

KEY = "6f1c3e0a-8a55-4c43-a8f0-0a4a3e3f0d11_vocals.wav"
STEMS = S3Options(bucket="stems", access_key_id="KEYID", secret_access_key="s3cret")


@pytest.fixture(autouse=True)
def _no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Hide the credentials of the developer and of this machine."""
    for name in (
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "AWS_PROFILE",
        "AWS_DEFAULT_REGION",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture
def server_options(s3_server: S3Server) -> S3Options:
    """Return the options of a new bucket on the server."""
    return new_bucket(s3_server)


@contextmanager
def answering(body: bytes, media_type: str) -> Iterator[tuple[str, list[str]]]:
    """Yield the URL of a server that answers everything with ``body``, and the requests that it has received."""
    received: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            sent = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            received.append(f"{self.path} {sent.decode()}")
            self.send_response(200)
            self.send_header("Content-Type", media_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET  # noqa: N815 - the base class looks for it

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", received
        finally:
            server.shutdown()
            thread.join()


REGIONS = [
    ("eu-central-1", "stems", "https://stems.s3.eu-central-1.amazonaws.com/"),
    ("af-south-1", "stems", "https://stems.s3.af-south-1.amazonaws.com/"),
    ("us-east-1", "stems", "https://stems.s3.us-east-1.amazonaws.com/"),
    ("cn-north-1", "stems", "https://stems.s3.cn-north-1.amazonaws.com.cn/"),
    # No certificate of AWS covers a bucket's name with a dot.
    ("eu-central-1", "my.stems", "https://s3.eu-central-1.amazonaws.com/my.stems/"),
]


@pytest.mark.parametrize(("region", "bucket", "address"), REGIONS)
def test_links_lead_to_the_host_of_the_region(region: str, bucket: str, address: str) -> None:
    url = S3Store(replace(STEMS, bucket=bucket, region=region)).url(KEY)
    query = parse_qs(urlsplit(url).query)
    assert url.startswith(f"{address}{KEY}?")
    assert query["X-Amz-Algorithm"] == ["AWS4-HMAC-SHA256"]
    assert query["X-Amz-Credential"][0].split("/")[2:] == [region, "s3", "aws4_request"]


STYLES = [
    ("auto", "http://s3.test:9000/stems/"),
    ("path", "http://s3.test:9000/stems/"),
    ("virtual", "http://stems.s3.test:9000/"),
]


@pytest.mark.parametrize(("style", "address"), STYLES)
def test_the_addressing_style_can_be_chosen(style: str, address: str) -> None:
    settings = load(
        None,
        {
            "S3_BUCKET_NAME": "stems",
            "S3_ENDPOINT_URL": "http://s3.test:9000",
            "S3_ADDRESSING_STYLE": style,
            "AWS_ACCESS_KEY_ID": "KEYID",
            "AWS_SECRET_ACCESS_KEY": "s3cret",
        },
    )
    assert S3Store(s3_options(settings.storage)).url(KEY).startswith(f"{address}{KEY}?")


def is_healthy(url: str) -> bool:
    try:
        return requests.get(url, timeout=2).ok
    except requests.ConnectionError:
        return False


@pytest.mark.s3
def test_a_server_with_virtual_hosted_style_alone(
    tools_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host names of its buckets are resolved by a proxy, since no name server knows them."""
    tool, port = require(lambda: fetch_s3_server(tools_dir, "versitygw")), free_port()
    for folder in ("objects", "metadata"):
        (tmp_path / folder).mkdir()
    address = ["--port", f"127.0.0.1:{port}", "--virtual-domain", f"s3.test:{port}", "--health", "/_health", "--quiet"]
    server = S3Server(tools_dir, tmp_path, port=port)
    process = ServerProcess(
        "VersityGW",
        [str(tool.path), *address, "posix", "--sidecar", str(tmp_path / "metadata"), str(tmp_path / "objects")],
        log_file=tmp_path / "log",
        ready=lambda: is_healthy(f"{server.endpoint_url}/_health"),
        env=server_environment(ROOT_ACCESS_KEY="KEYID", ROOT_SECRET_KEY="s3cret"),
        cwd=tmp_path,
    )
    hosts: set[str] = set()
    with process, gateway(server, lambda request: hosts.add(request.headers["host"])) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy)
        monkeypatch.setenv("http_proxy", proxy)
        options = replace(STEMS, endpoint_url=f"http://s3.test:{port}", addressing_style="virtual")
        S3Store(options).ensure_bucket()
        S3Store(options).check()
    assert f"stems.s3.test:{port}" in hosts
    assert (tmp_path / "objects" / "stems").is_dir()


def test_the_region_comes_from_the_variables_or_the_profile(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def host() -> str:
        return urlsplit(S3Store(STEMS).url(KEY)).netloc

    assert host() == "stems.s3.us-east-1.amazonaws.com"
    (tmp_path / "config").write_text("[default]\nregion = af-south-1\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    assert host() == "stems.s3.af-south-1.amazonaws.com"
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    assert host() == "stems.s3.eu-central-1.amazonaws.com"


@pytest.mark.s3
def test_temporary_keys_are_used_with_their_token(s3_server: S3Server, server_options: S3Options) -> None:
    """VersityGW has no temporary keys, and refuses the token."""
    tokens: list[str | None] = []
    with gateway(s3_server, lambda request: tokens.append(request.headers.get("x-amz-security-token"))) as url:
        options = replace(server_options, endpoint_url=url, session_token="the-token")
        with pytest.raises(InfrastructureError) as caught:
            S3Store(options).check()
    assert (caught.value.code, "AWS_SESSION_TOKEN" in caught.value.message) == (ErrorCode.STORAGE_REFUSED, True)
    assert set(tokens) == {"the-token"}
    assert parse_qs(urlsplit(S3Store(options).url(KEY)).query)["X-Amz-Security-Token"] == ["the-token"]
    assert "the-token" not in caught.value.message + repr(options)


def test_a_token_without_its_keys_is_refused() -> None:
    with pytest.raises(Exception, match="AWS_SESSION_TOKEN belongs to AWS_ACCESS_KEY_ID"):
        load(None, {"AWS_SESSION_TOKEN": "the-token"})


def from_env_file(folder: Path, options: S3Options, variables: Mapping[str, str]) -> S3Store:
    """Open the store of the bucket with the variables of an ``.env`` file, as a service does."""
    place = {"S3_BUCKET_NAME": options.bucket, "S3_ENDPOINT_URL": options.endpoint_url or ""}
    env_file = folder / ".env"
    env_file.write_text("".join(f"{name}={value}\n" for name, value in {**place, **variables}.items()))
    return S3Store(s3_options(load(env_file).storage))


@pytest.fixture
def _restored_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove at the end what reading an ``.env`` file adds to the environment."""
    for name in (
        "AWS_PROFILE",
        "AWS_SHARED_CREDENTIALS_FILE",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "AWS_ROLE_ARN",
        "AWS_ENDPOINT_URL_STS",
    ):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@pytest.mark.s3
@pytest.mark.usefixtures("_restored_environment")
def test_a_profile_of_the_env_file(server_options: S3Options, tmp_path: Path) -> None:
    options = server_options
    (tmp_path / "credentials").write_text(
        "[default]\naws_access_key_id = x\naws_secret_access_key = y\n"
        f"[stems]\naws_access_key_id = {options.access_key_id}\naws_secret_access_key = {options.secret_access_key}\n"
    )
    variables = {"AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "credentials"), "AWS_PROFILE": "stems"}
    from_env_file(tmp_path, options, variables).check()


@pytest.mark.s3
@pytest.mark.usefixtures("_restored_environment")
def test_the_role_of_a_container(server_options: S3Options, tmp_path: Path) -> None:
    role = {
        "AccessKeyId": server_options.access_key_id,
        "SecretAccessKey": server_options.secret_access_key,
        "Token": "",
        "Expiration": "2999-01-01T00:00:00Z",
    }
    with answering(json.dumps(role).encode(), "application/json") as (url, received):
        store = from_env_file(tmp_path, server_options, {"AWS_CONTAINER_CREDENTIALS_FULL_URI": f"{url}/role"})
        assert store.stat(KEY) is None
    assert received == ["/role "]


@pytest.mark.s3
@pytest.mark.usefixtures("_restored_environment")
def test_a_web_identity(server_options: S3Options, tmp_path: Path) -> None:
    (tmp_path / "identity").write_text("the-identity")
    answer = f"""\
<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">
<AssumeRoleWithWebIdentityResult><Credentials>
<AccessKeyId>{server_options.access_key_id}</AccessKeyId>
<SecretAccessKey>{server_options.secret_access_key}</SecretAccessKey>
<SessionToken></SessionToken><Expiration>2999-01-01T00:00:00Z</Expiration>
</Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"""
    with answering(answer.encode(), "text/xml") as (url, received):
        variables = {
            "AWS_WEB_IDENTITY_TOKEN_FILE": str(tmp_path / "identity"),
            "AWS_ROLE_ARN": "arn:aws:iam::123456789012:role/stems",
            "AWS_ENDPOINT_URL_STS": url,
        }
        assert from_env_file(tmp_path, server_options, variables).stat(KEY) is None
    assert "the-identity" in received[0]


def test_a_profile_that_does_not_exist_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nowhere")
    with pytest.raises(InfrastructureError) as caught:
        S3Store(S3Options(bucket="stems"))
    assert (caught.value.code, "AWS_PROFILE" in caught.value.message) == (ErrorCode.STORAGE_REFUSED, True)


@pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"])
def test_the_usual_variable_of_the_endpoint(name: str) -> None:
    environment = {"AWS_ENDPOINT_URL": "http://all.test", name: "http://s3.test:9000", "S3_BUCKET_NAME": "stems"}
    assert load(None, environment).storage.s3_endpoint_url == "http://s3.test:9000"
