"""Run a real S3 server on loopback: VersityGW, built with Go, or else S3Proxy, fetched with Maven."""

import logging
import os
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, assert_never

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from devstack.errors import ToolUnavailableError
from devstack.processes.process import ServerProcess, free_port
from devstack.processes.server import LocalServer, server_environment
from devstack.tools.cache import install_once, run_tool
from devstack.tools.java import find_java, properties_text
from devstack.tools.maven import fetch_jars
from devstack.tools.pins import GO_MINIMUM, S3PROXY_JACKSON_ANNOTATIONS_VERSION, S3PROXY_VERSION, VERSITYGW_VERSION

logger = logging.getLogger(__name__)

S3Engine = Literal["versitygw", "s3proxy"]

_HERE = Path(__file__).parent
_HOST = "127.0.0.1"
_REGION = "us-east-1"
_ACCESS_KEY = "uvr-local"  # a name, not a secret
_S3PROXY_MAX_HEAP = "256m"
_BUILD_SECONDS = 900.0
_CONNECT_SECONDS = 1.0
_READ_SECONDS = 5.0


@dataclass(frozen=True)
class S3Tool:
    """A fetched S3 server: `path` is the executable of "versitygw", or the folder with the jars of "s3proxy"."""

    engine: S3Engine
    path: Path


def fetch_s3_server(tools_dir: Path, engine: S3Engine | None = None) -> S3Tool:
    """Fetch the S3 server `engine`, or the first that is available, unless it is in `tools_dir` already.

    Raises ToolUnavailableError if it is not available.
    """
    if engine == "versitygw":
        return S3Tool(engine, _fetch_versitygw(tools_dir))
    if engine == "s3proxy":
        return S3Tool(engine, _fetch_s3proxy(tools_dir))
    try:
        return fetch_s3_server(tools_dir, "versitygw")
    except ToolUnavailableError as error:
        no_versitygw = error
        logger.info("using S3Proxy instead of VersityGW: %s", error)
    try:
        return fetch_s3_server(tools_dir, "s3proxy")
    except ToolUnavailableError as no_s3proxy:
        raise ToolUnavailableError(
            f"no S3 server can be fetched: install Go {GO_MINIMUM}+ or Apache Maven ({no_versitygw}; {no_s3proxy})"
        ) from no_s3proxy


class S3Server(LocalServer):
    """An S3 server with one account that keeps its objects in `data_dir`, on 127.0.0.1, over plain HTTP.

    A port and a secret that are not given are chosen once and kept over restarts of this object. Buckets belong to
    the `access_key` that created them; another key does not own them, but the secret may change. The engines store
    objects differently, so that each has its own folder below `data_dir`.
    """

    region = _REGION

    def __init__(
        self,
        tools_dir: Path,
        data_dir: Path,
        port: int | None = None,
        access_key: str | None = None,
        secret_key: str | None = None,
        engine: S3Engine | None = None,
        *,
        log_file: Path | None = None,
    ) -> None:
        super().__init__()
        self.port = port or free_port()
        self.access_key = access_key or _ACCESS_KEY
        self.secret_key = secret_key or secrets.token_hex(24)
        self._engine = engine
        self._tools_dir = tools_dir
        self._data_dir = data_dir.absolute()
        self._log_file = log_file or self._data_dir / "s3.log"

    @property
    def endpoint_url(self) -> str:
        """The URL of the server."""
        return f"http://{_HOST}:{self.port}"

    def _prepare(self) -> ServerProcess:
        tool = fetch_s3_server(self._tools_dir, self._engine)
        match tool.engine:
            case "versitygw":
                return self._versitygw(tool.path)
            case "s3proxy":
                return self._s3proxy(tool.path)
            case _:
                assert_never(tool.engine)

    def _versitygw(self, executable: Path) -> ServerProcess:
        objects = self._folder("versitygw/objects")
        # Metadata are kept in files, because extended attributes do not work on every file system.
        metadata = self._folder("versitygw/metadata")
        return ServerProcess(
            "VersityGW",
            [
                *(str(executable), "--port", f"{_HOST}:{self.port}", "--region", self.region, "--quiet"),
                *("posix", "--sidecar", str(metadata), str(objects)),
            ],
            log_file=self._log_file,
            ready=self._answers,
            cwd=self._data_dir,
            env=server_environment(ROOT_ACCESS_KEY=self.access_key, ROOT_SECRET_KEY=self.secret_key),
        )

    def _s3proxy(self, jars: Path) -> ServerProcess:
        settings = {
            "s3proxy.endpoint": self.endpoint_url,
            "s3proxy.authorization": "aws-v2-or-v4",
            "s3proxy.identity": self.access_key,
            "s3proxy.credential": self.secret_key,
            "jclouds.provider": "filesystem-nio2",
            "jclouds.filesystem.basedir": self._folder("s3proxy"),
        }
        java = find_java(self._tools_dir).command(max_heap=_S3PROXY_MAX_HEAP)
        logging_option = f"-Dlogback.configurationFile={_HERE / 's3proxy-logback.xml'}"
        main = ["org.gaul.s3proxy.Main", "--properties", "/dev/stdin"]
        return ServerProcess(
            "S3Proxy",
            [*java, logging_option, "-cp", f"{jars}/*", *main],
            log_file=self._log_file,
            ready=self._answers,
            cwd=self._data_dir,
            env=server_environment(),
            stdin=properties_text(settings).encode(),  # it reads no variables, and a JVM logs its properties
        )

    def _folder(self, name: str) -> Path:
        folder = self._data_dir / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _answers(self) -> bool:
        """Return True if the server on the port lists buckets for this account."""
        client = boto3.client(
            "s3",
            endpoint_url=self.endpoint_url,
            region_name=self.region,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            config=Config(
                connect_timeout=_CONNECT_SECONDS,
                read_timeout=_READ_SECONDS,
                retries={"total_max_attempts": 1},
                proxies={},
            ),
        )
        try:
            client.list_buckets()
        except (BotoCoreError, ClientError):
            return False
        finally:
            client.close()
        return True


def _fetch_versitygw(tools_dir: Path) -> Path:
    version = VERSITYGW_VERSION

    def build(folder: Path) -> None:
        go = shutil.which("go")
        if go is None:
            raise ToolUnavailableError(f"VersityGW is built with Go: install Go {GO_MINIMUM}+ (the command go)")
        run_tool(
            [go, "install", f"github.com/versity/versitygw/cmd/versitygw@v{version}"],
            timeout=_BUILD_SECONDS,
            failure=f"Go could not build VersityGW, which needs Go {GO_MINIMUM}+ and a network or module mirror",
            env={**os.environ, "GOBIN": str(folder)},
        )

    return install_once(tools_dir / f"versitygw-{version}", version, build) / "versitygw"


def _fetch_s3proxy(tools_dir: Path) -> Path:
    versions = {
        "s3proxy.version": S3PROXY_VERSION,
        "jackson.annotations.version": S3PROXY_JACKSON_ANNOTATIONS_VERSION,
    }
    return fetch_jars(_HERE / "s3proxy-pom.xml", tools_dir, f"s3proxy-{S3PROXY_VERSION}", versions)
