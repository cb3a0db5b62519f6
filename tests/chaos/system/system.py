"""The system under test: three brokers, a store, five services, their external services, and a proxy before each."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from demo.centre_model import write_demo_model
from devstack.kafka.broker import KafkaBroker
from devstack.kafka.cluster import KafkaCluster
from devstack.processes.process import free_port
from devstack.s3 import S3Server
from tests.chaos.audit.ledger import Ledger, PoisonBegan
from tests.chaos.poison import add_poison_model
from tests.chaos.schedule import BROKERS, PROCESSORS, SERVICES
from tests.chaos.system import settings
from tests.chaos.system.counterparts import Receiver, Source
from tests.chaos.system.disk import Disk
from tests.chaos.system.kafka_view import KafkaView
from tests.chaos.system.proxy import Proxy, ProxyLoop
from tests.chaos.system.service import Service
from tests.chaos.system.store_view import StoreView

#: Maximum startup time, s: two processes load a model while three brokers start.
_READY_SECONDS = 180.0


@dataclass(frozen=True, slots=True)
class SystemOptions:
    """The options of the system."""

    folder: Path
    """The folder of the run; must not exist."""
    tools: Path
    changed_settings: Mapping[str, str]
    """Settings of the services that differ from the defaults."""
    small_disks: bool
    """True if working files are on their own disks, which can be filled."""
    brokers: tuple[str, ...] = BROKERS
    """The names of the brokers of the cluster."""


class System:
    """The system, started when the block is entered and always stopped when it ends."""

    def __init__(self, options: SystemOptions, ledger: Ledger, songs: Mapping[str, bytes]) -> None:
        """``songs``: files by name."""
        self.ledger = ledger
        self._options = options
        self._cleanup = ExitStack()
        ports = [free_port() for _ in options.brokers]
        folder = options.folder / "kafka"
        self.cluster = KafkaCluster(options.tools, folder, size=len(ports), advertised_ports=ports)
        #: The folder of the first broker.
        self.broker_folder = folder / "broker-1"
        self.store = S3Server(options.tools, options.folder / "s3")
        self.source = Source(songs)
        self.receiver = Receiver(ledger)
        self.kafka = KafkaView(self.cluster)
        self.objects = StoreView(self.store)
        self.proxies: dict[str, Proxy] = {}
        self.services: dict[str, Service] = {}

    def __enter__(self) -> Self:
        with ExitStack() as starting:
            self._start(starting)
            self._cleanup = starting.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._cleanup.close()

    @property
    def brokers(self) -> dict[str, KafkaBroker]:
        return dict(zip(self._options.brokers, self.cluster.brokers, strict=True))

    def processor_of(self, child_port: int) -> tuple[Service, psutil.Process] | None:
        """Return the processor and the child with a connection from this port."""
        for name in PROCESSORS:
            child = self.services[name].child()
            with suppress(psutil.Error):
                if child and any(each.laddr.port == child_port for each in child.net_connections("tcp")):
                    return self.services[name], child
        return None

    def stop_services(self) -> Sequence[str]:
        """Send SIGTERM to all services concurrently; return the errors."""
        with ThreadPoolExecutor(len(self.services)) as pool:
            return [error for error in pool.map(_stop_error, self.services.values()) if error]

    def _start(self, cleanup: ExitStack) -> None:
        for server in (self.cluster, self.store):
            cleanup.callback(server.kill)  # its data are no longer needed
        with ThreadPoolExecutor(2) as pool:
            for started in [pool.submit(self.cluster.start), pool.submit(self.store.start)]:
                started.result()
        self.objects.make_bucket()
        for counterpart in (self.source, self.receiver):
            cleanup.enter_context(counterpart)
        self.source.on_poison = self._kill_poisoned_child
        proxy_loop = cleanup.enter_context(ProxyLoop())
        api_port = free_port()
        self._connect(proxy_loop, api_port)
        common = settings.common(self.cluster, self.store, self.proxies["s3"].url, self._options.changed_settings)
        for name in SERVICES:
            self._add_service(name, api_port if name == "api" else free_port(), common, cleanup)
        self._start_services()

    def _connect(self, proxy_loop: ProxyLoop, api_port: int) -> None:
        for name, broker in self.brokers.items():
            self.proxies[name] = proxy_loop.proxy(broker.port, broker.advertised_port)
        for name, port in (
            ("api", api_port),
            ("s3", self.store.port),
            ("source", self.source.port),
            ("receiver", self.receiver.port),
        ):
            self.proxies[name] = proxy_loop.proxy(port)

    def _add_service(self, name: str, port: int, common: dict[str, str], cleanup: ExitStack) -> None:
        module = name.partition("-")[0]
        folder = self._options.folder / name
        folder.mkdir(parents=True)
        # The API has no working files.
        disk = Disk(folder / "tmp", small=self._options.small_disks and module != "api")
        cleanup.callback(disk.unmount)
        if module == "processor":
            write_demo_model(folder / "models")
            add_poison_model(folder / "models", self.source.port)
        environment = {**common, **settings.service_settings(folder, disk.folder, port)}
        service = Service(name, module, folder, disk, f"http://127.0.0.1:{port}", environment)
        self.services[name] = service
        cleanup.callback(_kill_completely, service)

    def _start_services(self) -> None:
        for service in self.services.values():
            service.start()
        deadline = time.monotonic() + _READY_SECONDS
        for service in self.services.values():
            service.await_ready(deadline)

    def _kill_poisoned_child(self, port: int) -> None:
        """Kill the child that requests the poison model before it receives the response."""
        found = self.processor_of(port)
        if found is not None:
            service, child = found
            self.ledger.add(PoisonBegan(child=service.name))
            with suppress(psutil.Error):
                child.kill()
                child.wait(10)


def _stop_error(service: Service) -> str | None:
    try:
        service.stop()
    except TimeoutError as error:
        return str(error)
    return None


def _kill_completely(service: Service) -> None:
    """Kill the service and all of its remaining processes."""
    service.kill()
    for process in service.remaining_processes():
        with suppress(psutil.Error):
            process.kill()
