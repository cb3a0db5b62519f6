"""Everything that runs: three brokers, a store, five services, the two that they talk to, and a proxy before each."""

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
from devstack.kafka import KafkaBroker
from devstack.kafka_cluster import KafkaCluster
from devstack.process import free_port
from devstack.s3 import S3Server
from tests.chaos import settings
from tests.chaos.counterparts import Receiver, Source
from tests.chaos.disk import Disk
from tests.chaos.kafka_view import KafkaView
from tests.chaos.ledger import Ledger, PoisonTaken
from tests.chaos.poison import list_poison
from tests.chaos.proxy import Proxy, Switchboard
from tests.chaos.schedule import BROKERS, PROCESSORS, SERVICES
from tests.chaos.service import Service
from tests.chaos.store_view import StoreView

#: A model is loaded by two processes at once, on a machine that has three brokers to run, s.
_READY_SECONDS = 180.0


@dataclass(frozen=True, slots=True)
class Place:
    """Where and how everything is run."""

    folder: Path
    """Must not exist."""
    tools: Path
    special: Mapping[str, str]
    """Settings of the services that are not the defaults."""
    small_disks: bool
    """Whether working files have disks of their own, which can be filled."""


class System:
    """All of it is started when the block is entered, and ended, whatever has happened, when it is left."""

    def __init__(self, place: Place, ledger: Ledger, songs: Mapping[str, bytes]) -> None:
        """``songs``: files by their names."""
        self.ledger = ledger
        self._place = place
        self._cleanup = ExitStack()
        ports = [free_port() for _ in BROKERS]
        self.cluster = KafkaCluster(place.tools, place.folder / "kafka", advertised_ports=ports)
        self.store = S3Server(place.tools, place.folder / "s3")
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
        return dict(zip(BROKERS, self.cluster.brokers, strict=True))

    def processor_of(self, child_port: int) -> tuple[Service, psutil.Process] | None:
        """Whose child has a connection from this port, and the child."""
        for name in PROCESSORS:
            child = self.services[name].child()
            with suppress(psutil.Error):
                if child and any(each.laddr.port == child_port for each in child.net_connections("tcp")):
                    return self.services[name], child
        return None

    def stop_services(self) -> Sequence[str]:
        """SIGTERM to all of them at once; returns what there is to complain of."""
        with ThreadPoolExecutor(len(self.services)) as pool:
            return [complaint for complaint in pool.map(_stopped, self.services.values()) if complaint]

    def _start(self, cleanup: ExitStack) -> None:
        for server in (self.cluster, self.store):
            cleanup.callback(server.kill)  # nobody needs its data any more
        with ThreadPoolExecutor(2) as pool:
            for started in [pool.submit(self.cluster.start), pool.submit(self.store.start)]:
                started.result()
        self.objects.make_bucket()
        for counterpart in (self.source, self.receiver):
            cleanup.enter_context(counterpart)
        self.source.on_poison = self._take_poison
        switchboard = cleanup.enter_context(Switchboard())
        api_port = free_port()
        self._connect(switchboard, api_port)
        common = settings.common(self.cluster, self.store, self.proxies["s3"].url, self._place.special)
        for name in SERVICES:
            self._add_service(name, api_port if name == "api" else free_port(), common, cleanup)
        self._start_services()

    def _connect(self, switchboard: Switchboard, api_port: int) -> None:
        for name, broker in self.brokers.items():
            self.proxies[name] = switchboard.proxy(broker.port, broker.advertised_port)
        for name, port in (
            ("api", api_port),
            ("s3", self.store.port),
            ("source", self.source.port),
            ("receiver", self.receiver.port),
        ):
            self.proxies[name] = switchboard.proxy(port)

    def _add_service(self, name: str, port: int, common: dict[str, str], cleanup: ExitStack) -> None:
        module = name.partition("-")[0]
        folder = self._place.folder / name
        folder.mkdir(parents=True)
        # The API has no working files.
        disk = Disk(folder / "tmp", small=self._place.small_disks and module != "api")
        cleanup.callback(disk.unmount)
        if module == "processor":
            write_demo_model(folder / "models")
            list_poison(folder / "models", self.source.port)
        environment = {**common, **settings.own(folder, disk.folder, port)}
        service = Service(name, module, folder, disk, f"http://127.0.0.1:{port}", environment)
        self.services[name] = service
        cleanup.callback(_end, service)

    def _start_services(self) -> None:
        for service in self.services.values():
            service.start()
        deadline = time.monotonic() + _READY_SECONDS
        for service in self.services.values():
            service.await_ready(deadline)

    def _take_poison(self, port: int) -> None:
        """The child that asks for the poisonous model has begun the job, and dies of it before it gets an answer."""
        found = self.processor_of(port)
        if found is not None:
            service, child = found
            self.ledger.add(PoisonTaken(child=service.name))
            with suppress(psutil.Error):
                child.kill()
                child.wait(10)


def _stopped(service: Service) -> str | None:
    try:
        service.stop()
    except TimeoutError as error:
        return str(error)
    return None


def _end(service: Service) -> None:
    """Nothing of it is left."""
    service.kill()
    for process in service.remains():
        with suppress(psutil.Error):
            process.kill()
