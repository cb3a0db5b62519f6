"""Run the three services as processes on this machine, with the embedded engines or with a real Kafka and S3."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from pathlib import Path

from config import Settings, load, read_env_file
from demo.centre_model import DEMO_MODEL_NAME, write_demo_model
from devstack.errors import DevstackError, ServerStartError
from devstack.kafka.broker import KafkaBroker, fetch_kafka
from devstack.processes.process import ServerProcess, free_port
from devstack.processes.server import LocalServer
from devstack.readiness import ReadinessProbe
from devstack.s3 import S3Server, fetch_s3_server
from devstack.tools.cache import tools_folder
from pipeline.service.waiting import component_addresses
from pipeline.storage.factory import s3_options
from pipeline.storage.s3.store import S3Store

ROOT = Path(__file__).resolve().parents[1]
LOCAL = ROOT / ".local"
LOGS = ROOT / "logs"

_BUCKET = "uvr"
_NAMED_BY = {"kafka": "KAFKA_BOOTSTRAP_SERVERS", "s3": "S3_ENDPOINT_URL"}
_FETCH: dict[str, Callable[[Path], object]] = {"kafka": fetch_kafka, "s3": fetch_s3_server}
#: Longest start of a service, which includes the download of a model, s.
_READY_SECONDS = 1800.0
#: Longest stop of a service: SHUTDOWN_GRACE and a margin, s.
_STOP_SECONDS = 40.0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The services and servers to start, and their folders."""

    environment: Mapping[str, str]
    """The complete environment of the services; they receive no other variables."""
    env_file: Path | None = None
    """A `.env` that the services read as well, as when they are started by hand; None: there is none."""
    data_dir: Path
    """The folder of the servers' data. The services have their own setting for theirs."""
    log_dir: Path = LOGS
    log_prefix: str = ""
    real_servers: bool = False
    """True: start an Apache Kafka and an S3 server, each unless the settings name one."""

    def settings(self) -> Settings:
        """Read the settings as the services read them. Raises ConfigError."""
        return load(self.env_file, self.environment)

    @property
    def folder(self) -> Path:
        """The working directory of the services: the folder of the env file, or else `data_dir`."""
        return self.env_file.parent if self.env_file else self.data_dir

    def sets(self, name: str) -> bool:
        """Return True if a setting is given; the other settings need not be valid."""
        return bool(self.environment.get(name) or read_env_file(self.env_file, self.environment).get(name))

    def log_file(self, name: str) -> Path:
        """Return the log file of a service or server."""
        return self.log_dir / f"{self.log_prefix}{name}.log"


@dataclass
class Stack:
    """Running services and servers."""

    plan: Plan
    services: dict[str, ServerProcess] = field(default_factory=dict)
    """By the name of the package: api, processor, uploader."""
    servers: dict[str, LocalServer] = field(default_factory=dict)
    """The servers that were started here: kafka, s3."""

    @property
    def api_url(self) -> str:
        """The URL of the API on this machine."""
        return self.health_urls()["api"]

    @property
    def processes(self) -> dict[str, ServerProcess | LocalServer]:
        """The services and servers."""
        return {**self.services, **self.servers}

    def health_urls(self) -> dict[str, str]:
        """Return the URL of each service's health endpoints."""
        return {name: _local_url(host, port) for name, (_, host, port) in _listening(self.settings()).items()}

    def settings(self) -> Settings:
        """Read the settings as the services read them."""
        return self.plan.settings()

    def require_running(self) -> None:
        """Raise ServerStartError, naming the log, if a service or server has ended."""
        for name, process in self.processes.items():
            if not process.running:
                raise ServerStartError(f"{name} {process.ending}; its log is {self.plan.log_file(name)}")

    def add_settings(self, **settings: str) -> None:
        """Add variables to the environment of the services that start later."""
        self.plan = replace(self.plan, environment={**self.plan.environment, **settings})


@contextmanager
def running(plan: Plan) -> Iterator[Stack]:
    """Start all services and yield when they are ready. Stop everything on exit, the servers last.

    Raises DevstackError, and ConfigError for invalid settings.
    """
    plan.folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as cleanup:
        stack = Stack(plan)
        if plan.real_servers:
            _start_servers(stack, cleanup)
        settings = stack.settings()
        # Port 0 means any free port. It is chosen here, because services do not report the port that they got.
        ports = {
            "API_PORT": settings.api.port,
            "PROCESSOR_HEALTH_PORT": settings.worker.processor_health_port,
            "UPLOADER_HEALTH_PORT": settings.worker.uploader_health_port,
        }
        stack.add_settings(**{name: str(free_port()) for name, port in ports.items() if port == 0})
        settings = stack.settings()
        if settings.model.model_name == DEMO_MODEL_NAME:
            write_demo_model(stack.plan.folder / settings.model.model_dir)
        stack.services = {process.name: process for process in _services(stack.plan, settings)}
        cleanup.callback(_stop_all, tuple(stack.services.values()))
        _start_all(tuple(stack.services.values()))
        yield stack


def _start_servers(stack: Stack, cleanup: ExitStack) -> None:
    """Start the servers that the settings do not name, and add them to the settings.

    Raises ToolUnavailableError before anything is started.
    """
    tools = tools_folder(LOCAL / "tools")
    needed = [name for name, setting in _NAMED_BY.items() if not stack.plan.sets(setting)]
    for name in needed:
        _FETCH[name](tools)
    if "kafka" in needed:
        broker = KafkaBroker(tools, stack.plan.data_dir / "kafka", log_file=stack.plan.log_file("kafka"))
        stack.servers["kafka"] = cleanup.enter_context(broker)
        stack.add_settings(KAFKA_BOOTSTRAP_SERVERS=broker.bootstrap_servers)
    if "s3" in needed:
        store = S3Server(tools, stack.plan.data_dir / "s3", log_file=stack.plan.log_file("s3"))
        stack.servers["s3"] = cleanup.enter_context(store)
        stack.add_settings(
            STORAGE="s3",
            S3_BUCKET_NAME=_BUCKET,
            S3_ENDPOINT_URL=store.endpoint_url,
            AWS_ACCESS_KEY_ID=store.access_key,
            AWS_SECRET_ACCESS_KEY=store.secret_key,
            AWS_REGION=store.region,
        )
        with _replaced_environment(stack.plan.environment):  # boto3 reads proxies and their exceptions from it
            S3Store(s3_options(load(None, stack.plan.environment).storage)).ensure_bucket()


@contextmanager
def _replaced_environment(values: Mapping[str, str]) -> Iterator[None]:
    """Replace the whole environment of this process for a moment."""
    before = dict(os.environ)
    os.environ.clear()
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _services(plan: Plan, settings: Settings) -> Iterator[ServerProcess]:
    for name, (setting, host, port) in _listening(settings).items():
        _require_free_port(setting, host, port)
        yield ServerProcess(
            name,
            [sys.executable, "-m", name],
            log_file=plan.log_file(name),
            ready=ReadinessProbe(name, _local_url(host, port), component_addresses(settings)),
            ready_timeout=_READY_SECONDS,
            stop_grace=_STOP_SECONDS,
            env=plan.environment,
            cwd=plan.folder,
        )


def _listening(settings: Settings) -> dict[str, tuple[str, str, int]]:
    """Return the setting, the host and the port of each service's endpoints."""
    worker = settings.worker
    return {
        "processor": ("PROCESSOR_HEALTH_PORT", worker.processor_health_host, worker.processor_health_port),
        "uploader": ("UPLOADER_HEALTH_PORT", worker.uploader_health_host, worker.uploader_health_port),
        "api": ("API_PORT", settings.api.host, settings.api.port),
    }


def _require_free_port(setting: str, host: str, port: int) -> None:
    """Raise DevstackError if the port is taken: another program could answer in the service's place."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the service does
        try:
            probe.bind((host, port))
        except OSError as error:
            raise DevstackError(
                f"{setting}={port} cannot be listened on ({error.strerror}): set another port, in .env for instance"
            ) from None


def _local_url(host: str, port: int) -> str:
    """Return the URL of a service on this machine; one that listens on all addresses is reached on loopback."""
    try:
        literal = ip_address(host)
    except ValueError:
        return f"http://{host}:{port}"
    if literal.is_unspecified:
        return f"http://127.0.0.1:{port}"
    return f"http://[{host}]:{port}" if literal.version == 6 else f"http://{host}:{port}"


def _start_all(processes: Sequence[ServerProcess]) -> None:
    """Start the processes in parallel. The first failure, or an interrupt, ends the wait for the others."""
    with ThreadPoolExecutor(len(processes)) as pool:
        starts = [pool.submit(process.start) for process in processes]
        try:
            done, _ = wait(starts, return_when=FIRST_EXCEPTION)
            failures = [failure for start in done if (failure := start.exception())]
            if failures:
                raise failures[0]
        except BaseException:
            # Killed processes end the waits of the pool's threads, so that the pool can be left.
            for process in processes:
                process.kill()
            raise


def _stop_all(processes: Sequence[ServerProcess]) -> None:
    """Stop the processes in parallel, each within its grace period; an interrupt kills them at once."""
    with ThreadPoolExecutor(len(processes)) as pool:
        try:
            list(pool.map(ServerProcess.stop, processes))
        except KeyboardInterrupt:
            for process in processes:
                process.kill()
