"""The three services as processes of this machine, on the embedded engines or on a real Kafka and S3."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from ipaddress import ip_address
from pathlib import Path

import requests
from dotenv import dotenv_values

from config import Settings, load
from demo.centre_model import DEMO_MODEL_NAME, write_demo_model
from devstack.errors import DevstackError, ServerStartError
from devstack.kafka import KafkaBroker, fetch_kafka
from devstack.process import ServerProcess, free_port
from devstack.s3 import S3Server, fetch_s3_server
from devstack.server import LocalServer
from devstack.tools import tools_folder
from pipeline.storage.factory import s3_options
from pipeline.storage.s3.store import S3Store

ROOT = Path(__file__).resolve().parents[1]
LOCAL = ROOT / ".local"
LOGS = ROOT / "logs"

_BUCKET = "uvr"
_NAMED_BY = {"kafka": "KAFKA_BOOTSTRAP_SERVERS", "s3": "S3_ENDPOINT_URL"}
_FETCH: dict[str, Callable[[Path], object]] = {"kafka": fetch_kafka, "s3": fetch_s3_server}
#: A model may have to be fetched before the processor is ready, s.
_READY_SECONDS = 1800.0
_PROBE_SECONDS = 3.0
#: SHUTDOWN_GRACE and a little, s.
_STOP_SECONDS = 40.0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to start, and where."""

    environment: Mapping[str, str]
    """Of the services, whole: what is not in here does not reach them."""
    env_file: Path | None = None
    """Read by the services on top, as they read it when they are started by hand; None: there is none."""
    data_dir: Path
    """Of the servers; the services have their own settings for theirs."""
    log_dir: Path = LOGS
    log_prefix: str = ""
    real_servers: bool = False
    """Whether to start an Apache Kafka and an S3 server, as far as the settings name none."""

    def settings(self) -> Settings:
        """The settings as the services see them. Raises ConfigError."""
        return load(self.env_file, self.environment)

    @property
    def folder(self) -> Path:
        """Where the services run: beside their env file, or else where there is none."""
        return self.env_file.parent if self.env_file else self.data_dir

    def sets(self, name: str) -> bool:
        """Whether a setting is given at all; the others need not make sense yet."""
        return bool(self.environment.get(name) or (self.env_file and dotenv_values(self.env_file).get(name)))

    def log_file(self, name: str) -> Path:
        """Where a service or server writes."""
        return self.log_dir / f"{self.log_prefix}{name}.log"


@dataclass
class Stack:
    """What runs, and how to reach it."""

    plan: Plan
    services: dict[str, ServerProcess] = field(default_factory=dict)
    """By the name of the package: api, processor, uploader."""
    servers: dict[str, LocalServer] = field(default_factory=dict)
    """Those that were started here: kafka, s3."""

    @property
    def api_url(self) -> str:
        settings = self.plan.settings()
        return _address(settings.api.host, settings.api.port)

    def settings(self) -> Settings:
        """The settings as the services see them."""
        return self.plan.settings()

    def require_running(self) -> None:
        """Raise ServerStartError, naming the log, if a service or server has ended."""
        everything: dict[str, ServerProcess | LocalServer] = {**self.services, **self.servers}
        for name, process in everything.items():
            if not process.running:
                raise ServerStartError(f"{name} has ended; its log is {self.plan.log_file(name)}")


@contextmanager
def running(plan: Plan) -> Iterator[Stack]:
    """All services, ready; everything that was started is stopped when the block is left, servers last.

    Raises DevstackError, and ConfigError for settings that cannot be used.
    """
    plan.folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as cleanup:
        stack = Stack(plan)
        if plan.real_servers:
            _start_servers(stack, cleanup)
        _settle_ports(stack)
        settings = stack.settings()
        if settings.model.model_name == DEMO_MODEL_NAME:
            write_demo_model(stack.plan.folder / settings.model.model_dir)
        stack.services = {process.name: process for process in _services(stack.plan, settings)}
        cleanup.callback(_stop_all, tuple(stack.services.values()))
        _start_all(tuple(stack.services.values()))
        yield stack


def _settle_ports(stack: Stack) -> None:
    """Port 0 means any free one: it is chosen here, since no service tells which it took."""
    settings = stack.settings()
    ports = {
        "API_PORT": settings.api.port,
        "PROCESSOR_HEALTH_PORT": settings.worker.processor_health_port,
        "UPLOADER_HEALTH_PORT": settings.worker.uploader_health_port,
    }
    _add(stack, **{name: str(free_port()) for name, port in ports.items() if port == 0})


def _services(plan: Plan, settings: Settings) -> Iterator[ServerProcess]:
    worker = settings.worker
    ports = {
        "processor": ("PROCESSOR_HEALTH_PORT", worker.processor_health_host, worker.processor_health_port),
        "uploader": ("UPLOADER_HEALTH_PORT", worker.uploader_health_host, worker.uploader_health_port),
        "api": ("API_PORT", settings.api.host, settings.api.port),
    }
    for name, (setting, host, port) in ports.items():
        _require_free(setting, host, port)
        yield ServerProcess(
            name,
            [sys.executable, "-m", name],
            log_file=plan.log_file(name),
            ready=partial(_is_ready, _address(host, port)),
            ready_timeout=_READY_SECONDS,
            stop_grace=_STOP_SECONDS,
            env=plan.environment,
            cwd=plan.folder,
        )


def _start_all(processes: Sequence[ServerProcess]) -> None:
    """Start them side by side. The first that fails, or an interrupt, ends the wait for the others."""
    with ThreadPoolExecutor(len(processes)) as pool:
        starts = [pool.submit(process.start) for process in processes]
        try:
            done, _ = wait(starts, return_when=FIRST_EXCEPTION)
            failures = [failure for start in done if (failure := start.exception())]
            if failures:
                raise failures[0]
        except BaseException:
            # What is killed is not waited for any longer, and so the pool can be left.
            for process in processes:
                process.kill()
            raise


def _stop_all(processes: Sequence[ServerProcess]) -> None:
    """Stop them side by side, each in its own time; an interrupt meanwhile ends them at once."""
    with ThreadPoolExecutor(len(processes)) as pool:
        try:
            list(pool.map(ServerProcess.stop, processes))
        except KeyboardInterrupt:
            for process in processes:
                process.kill()


def _is_ready(address: str) -> bool:
    with requests.Session() as session:
        session.trust_env = False  # a proxy has no way to this machine's loopback
        try:
            return session.get(f"{address}/ready", timeout=_PROBE_SECONDS).ok
        except requests.RequestException:
            return False


def _require_free(setting: str, host: str, port: int) -> None:
    """A stranger on the port might answer in the service's place. Raises DevstackError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the service does
        try:
            probe.bind((host, port))
        except OSError as error:
            raise DevstackError(
                f"{setting}={port} cannot be listened on ({error.strerror}): set another port, in .env for instance"
            ) from None


def _address(host: str, port: int) -> str:
    """Where this machine reaches a service; one that listens everywhere listens on loopback too."""
    try:
        literal = ip_address(host)
    except ValueError:
        return f"http://{host}:{port}"
    if literal.is_unspecified:
        return f"http://127.0.0.1:{port}"
    return f"http://[{host}]:{port}" if literal.version == 6 else f"http://{host}:{port}"


def _start_servers(stack: Stack, cleanup: ExitStack) -> None:
    """Start what the settings do not name, and add it to the settings. Raises ToolUnavailableError before any start."""
    tools = tools_folder(LOCAL / "tools")
    wanted = [name for name, setting in _NAMED_BY.items() if not stack.plan.sets(setting)]
    for name in wanted:
        _FETCH[name](tools)
    if "kafka" in wanted:
        broker = KafkaBroker(tools, stack.plan.data_dir / "kafka", log_file=stack.plan.log_file("kafka"))
        stack.servers["kafka"] = cleanup.enter_context(broker)
        _add(stack, KAFKA_BOOTSTRAP_SERVERS=broker.bootstrap_servers)
    if "s3" in wanted:
        store = S3Server(tools, stack.plan.data_dir / "s3", log_file=stack.plan.log_file("s3"))
        stack.servers["s3"] = cleanup.enter_context(store)
        _add(stack, **_bucket_settings(store))
        with _environ(stack.plan.environment):
            S3Store(s3_options(load(None).storage)).ensure_bucket()


def _bucket_settings(store: S3Server) -> dict[str, str]:
    return {
        "STORAGE": "s3",
        "S3_BUCKET_NAME": _BUCKET,
        "S3_ENDPOINT_URL": store.endpoint_url,
        "AWS_ACCESS_KEY_ID": store.access_key,
        "AWS_SECRET_ACCESS_KEY": store.secret_key,
        "AWS_REGION": store.region,
    }


def _add(stack: Stack, **settings: str) -> None:
    stack.plan = replace(stack.plan, environment={**stack.plan.environment, **settings})


@contextmanager
def _environ(values: Mapping[str, str]) -> Iterator[None]:
    """The process's environment is exactly this for a moment."""
    before = dict(os.environ)
    os.environ.clear()
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
