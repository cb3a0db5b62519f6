"""Test each engine of the S3 server: objects survive restarts, and only its account can read them."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from devstack.errors import ServerStartError
from devstack.s3 import S3Engine, S3Server, S3Tool, fetch_s3_server
from tests.support.servers import require

# The first run on a machine fetches or builds the servers, which may take minutes.
pytestmark = [pytest.mark.s3, pytest.mark.slow, pytest.mark.timeout(1200)]

BODY = bytes(range(256)) * 4096


@pytest.fixture(scope="module", params=["versitygw", "s3proxy"])
def tool(request: pytest.FixtureRequest, tools_dir: Path) -> S3Tool:
    engine: S3Engine = request.param
    return require(lambda: fetch_s3_server(tools_dir, engine))


@pytest.fixture
def server(tool: S3Tool, tools_dir: Path, tmp_path: Path) -> Iterator[S3Server]:
    with S3Server(tools_dir, tmp_path / "s3", engine=tool.engine) as server:
        yield server


@contextmanager
def client(server: S3Server, secret_key: str | None = None) -> Iterator[Any]:
    with closing(
        boto3.client(
            "s3",
            endpoint_url=server.endpoint_url,
            region_name=server.region,
            aws_access_key_id=server.access_key,
            aws_secret_access_key=secret_key or server.secret_key,
            config=Config(retries={"total_max_attempts": 1}, proxies={}),
        )
    ) as s3:
        yield s3


def put(server: S3Server, key: str) -> None:
    with client(server) as s3:
        s3.put_object(Bucket="stems", Key=key, Body=BODY, ContentType="audio/wav", Metadata={"sha256": "ab"})


def assert_stored(server: S3Server, key: str) -> None:
    with client(server) as s3:
        answer = s3.get_object(Bucket="stems", Key=key)
        with closing(answer["Body"]) as body:
            assert body.read() == BODY
        assert (answer["ContentType"], answer["Metadata"]) == ("audio/wav", {"sha256": "ab"})


def test_objects_survive_a_stop_and_a_crash(server: S3Server) -> None:
    with client(server) as s3:
        s3.create_bucket(Bucket="stems")
    address = server.endpoint_url
    put(server, "a_vocals.wav")
    server.stop()
    assert not server.running
    server.start()
    assert_stored(server, "a_vocals.wav")

    put(server, "b_vocals.wav")
    server.kill()
    server.start()
    assert_stored(server, "b_vocals.wav")
    assert server.endpoint_url == address


def test_data_serve_another_server_with_another_secret(
    server: S3Server, tools_dir: Path, tool: S3Tool, tmp_path: Path
) -> None:
    with client(server) as s3:
        s3.create_bucket(Bucket="stems")
    put(server, "a_vocals.wav")
    server.stop()
    with S3Server(tools_dir, tmp_path / "s3", engine=tool.engine) as other:
        assert other.secret_key != server.secret_key
        assert_stored(other, "a_vocals.wav")
        with client(other) as s3, pytest.raises(s3.exceptions.BucketAlreadyOwnedByYou):
            s3.create_bucket(Bucket="stems")


def test_wrong_secret_is_rejected(server: S3Server) -> None:
    with client(server, secret_key="wrong") as s3, pytest.raises(ClientError, match="SignatureDoesNotMatch"):
        s3.list_buckets()


def test_secret_is_on_no_command_line_in_no_log_and_in_no_file(server: S3Server, tmp_path: Path) -> None:
    secret = server.secret_key.encode()
    with client(server) as s3:
        s3.create_bucket(Bucket="stems")
    assert secret not in Path(f"/proc/{server.pid}/cmdline").read_bytes()
    for path in (tmp_path / "s3").rglob("*"):
        assert not path.is_file() or secret not in path.read_bytes(), path


def test_another_program_on_the_port_is_not_mistaken_for_the_server(
    server: S3Server, tools_dir: Path, tool: S3Tool, tmp_path: Path
) -> None:
    second = S3Server(tools_dir, tmp_path / "second", port=server.port, engine=tool.engine)
    with pytest.raises(ServerStartError, match="ended with code"):
        second.start()
    assert not second.running
    assert server.running
