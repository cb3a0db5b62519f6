"""The three services as processes of this machine, on the embedded engines or on a real Kafka and S3."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import requests

from config import Settings
from demo.centre_model import DEMO_MODEL_NAME, write_demo_model
from devstack.errors import ServerStartError
from devstack.kafka import KafkaBroker
from devstack.process import ServerProcess, free_port
from devstack.s3 import S3Server
from devstack.tools import tools_folder
from pipeline.storage.s3 import S3Options, S3Store

ROOT = Path(__file__).resolve().parents[1]
LOCAL = ROOT / ".local"
LOGS = ROOT / "logs"
DEMO_MODELS = LOCAL / "demo-models"

_HOST = "127.0.0.1"
_BUCKET = "uvr"
#: A model may have to be fetched before the processor is ready, s.
_READY_SECONDS = 1800.0
_PROBE_SECONDS = 3.0
#: SHUTDOWN_GRACE and a little, s.
_STOP_SECONDS = 40.0


@dataclass
class Stack:
    """What runs, and how to reach it."""

    environment: dict[str, str]
    processes: list[ServerProcess] = field(default_factory=list)

    @property
    def api_url(self) -> str:
        return f"http://{self.environment['API_HOST']}:{self.environment['API_PORT']}"

    def settings(self) -> Settings:
        """The settings as the services see them."""
        with _environ(self.environment):
            return Settings(ROOT / ".env")

    def require_running(self) -> None:
        """Raise ServerStartError, naming the log, if a service has ended."""
        for process in self.processes:
            if not process.running:
                raise ServerStartError(f"{process.name} has ended; its log is {process.log_file}")


@contextmanager
def running(
    *, real_servers: bool, data_dir: Path, overrides: Mapping[str, str], log_prefix: str = ""
) -> Iterator[Stack]:
    """All services, ready; everything that was started is stopped, in reverse order, when the block is left.

    `overrides`: settings that go before the user's. Raises DevstackError.
    """
    environment = {
        "API_HOST": _HOST,
        "API_PORT": "8000",
        "DATA_DIR": str(data_dir),
        # Sources and webhooks of a development machine are on loopback.
        "ALLOW_PRIVATE_NETWORKS": "true",
        "LOG_FORMAT": "console",
        **_chosen("API_HOST", "API_PORT", "LOG_FORMAT", "DATA_DIR"),
        **overrides,
    }
    with ExitStack() as cleanup:
        if real_servers:
            environment |= _real_servers(cleanup, data_dir, log_prefix)
        stack = Stack(environment)
        settings = stack.settings()
        if settings.model.model_name == DEMO_MODEL_NAME:
            write_demo_model(settings.model.model_dir)
        stack.processes = list(_services(stack, settings, log_prefix))
        for process in stack.processes:
            cleanup.callback(process.stop)
        with ThreadPoolExecutor() as pool:
            list(pool.map(ServerProcess.start, stack.processes))
        yield stack


def _services(stack: Stack, settings: Settings, log_prefix: str) -> Iterator[ServerProcess]:
    worker = settings.worker
    addresses = {
        "processor": f"http://{_HOST}:{worker.processor_health_port}",
        "uploader": f"http://{_HOST}:{worker.uploader_health_port}",
        "api": stack.api_url,
    }
    for name, address in addresses.items():
        yield ServerProcess(
            name,
            [sys.executable, "-m", name],
            log_file=LOGS / f"{log_prefix}{name}.log",
            ready=lambda address=address: _is_ready(address),  # type: ignore[misc]
            ready_timeout=_READY_SECONDS,
            stop_grace=_STOP_SECONDS,
            env=os.environ | stack.environment,
            cwd=ROOT,
        )


def _is_ready(address: str) -> bool:
    try:
        return requests.get(f"{address}/ready", timeout=_PROBE_SECONDS).ok
    except requests.RequestException:
        return False


def _real_servers(cleanup: ExitStack, data_dir: Path, log_prefix: str) -> dict[str, str]:
    """Start what the user's settings do not name, and return the settings for it."""
    settings = Settings(ROOT / ".env")
    tools = tools_folder(LOCAL / "tools")
    environment = {}
    if settings.kafka.bootstrap_servers is None:
        broker = KafkaBroker(tools, data_dir / "kafka", log_file=LOGS / f"{log_prefix}kafka.log")
        cleanup.enter_context(broker)
        environment["KAFKA_BOOTSTRAP_SERVERS"] = broker.bootstrap_servers
    if settings.storage.s3_endpoint_url is None:
        server = S3Server(tools, data_dir / "s3", log_file=LOGS / f"{log_prefix}s3.log")
        cleanup.enter_context(server)
        _make_bucket(server)
        environment |= {
            "STORAGE": "s3",
            "S3_BUCKET_NAME": _BUCKET,
            "S3_ENDPOINT_URL": server.endpoint_url,
            "AWS_ACCESS_KEY_ID": server.access_key,
            "AWS_SECRET_ACCESS_KEY": server.secret_key,
            "AWS_REGION": server.region,
        }
    return environment


def _make_bucket(server: S3Server) -> None:
    options = S3Options(
        bucket=_BUCKET,
        region=server.region,
        endpoint_url=server.endpoint_url,
        access_key_id=server.access_key,
        secret_access_key=server.secret_key,
        public_domain=None,
        url_ttl=60,
    )
    S3Store(options).ensure_bucket()


def free_ports() -> dict[str, str]:
    """Ports of their own for every service, so that two stacks can run side by side."""
    return {name: str(free_port()) for name in ("API_PORT", "PROCESSOR_HEALTH_PORT", "UPLOADER_HEALTH_PORT")}


def demo_model() -> dict[str, str]:
    """The demo model, in a folder of its own: its list of models would hide all others from the library."""
    return {"MODEL_NAME": DEMO_MODEL_NAME, "MODEL_FILE_DIR": str(DEMO_MODELS)}


def _chosen(*names: str) -> dict[str, str]:
    """What the user has set himself, in the environment or in `.env`."""
    from dotenv import dotenv_values

    found = {**dotenv_values(ROOT / ".env"), **os.environ}
    return {name: value for name in names if (value := found.get(name))}


@contextmanager
def _environ(values: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
