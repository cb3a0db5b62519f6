"""One running service per engine, shared by all tests of this folder: each start takes seconds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from devstack.kafka import fetch_kafka
from devstack.s3 import fetch_s3_server
from devstack.server import LocalServer
from tests.e2e.audio import Recording, repeated, song
from tests.e2e.logs import check_logs
from tests.e2e.service import CREDENTIALS, WEBHOOK_SECRET, Service, files, service_in
from tests.support.servers import require
from tests.support.source_server import SourceServer
from tests.support.webhook_receiver import WebhookReceiver

FOLDER = Path(__file__).parent
ENGINES = [
    "embedded",
    # The first run fetches a broker and builds an S3 server.
    pytest.param("kafka", marks=[pytest.mark.kafka, pytest.mark.s3, pytest.mark.timeout(900)]),
]


@pytest.fixture(scope="session", params=ENGINES)
def _service(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp(request.param)
    real_servers = request.param == "kafka"
    # Beyond one machine there is no shared folder to hand the stems over in. And a job is given back at once there.
    settings = {"HANDOFF": "s3", "SHUTDOWN_GRACE": "0.5"} if real_servers else {}
    if real_servers:
        tools = request.getfixturevalue("tools_dir")
        require(lambda: fetch_kafka(tools))
        require(lambda: fetch_s3_server(tools))
    with service_in(folder, real_servers=real_servers, **settings) as service:
        yield service
        service.check_outcomes()
    state = service.settings.state
    assert not files(state.work_dir)
    check_logs(folder / "logs", secrets=(CREDENTIALS[1], WEBHOOK_SECRET, *_keys(service)))


def _keys(service: Service) -> tuple[str, ...]:
    key = service.settings.storage.aws_secret_access_key
    return (key.get_secret_value(),) if key else ()


@pytest.fixture
def service(_service: Service) -> Iterator[Service]:
    """The service on each engine; a test may kill, stop or pause any part of it."""
    yield _service
    _service.restore()
    _service.wait_until_tidy()


@pytest.fixture
def servers(service: Service) -> dict[str, LocalServer]:
    """The broker and the store, for tests that kill, stop or pause them. The embedded engines have none."""
    return service.stack.servers


@pytest.fixture
def quick_engine(service: Service) -> None:
    """For tests of what has nothing to do with the engine."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out tests of this folder on engines that they are not for."""
    ours = [item for item in items if isinstance(item, pytest.Function) and FOLDER in item.path.parents]
    pointless = [item for item in ours if _is_pointless(item)]
    if pointless:
        config.hook.pytest_deselected(items=pointless)
        items[:] = [item for item in items if item not in pointless]


def _is_pointless(test: pytest.Function) -> bool:
    wrong = {"servers": "embedded", "quick_engine": "kafka"}
    engine = test.callspec.params.get("_service") if hasattr(test, "callspec") else None
    return any(name in wrong and engine == wrong[name] for name in test.fixturenames)


@pytest.fixture
def source() -> Iterator[SourceServer]:
    with SourceServer() as server:
        yield server


@pytest.fixture
def receiver() -> Iterator[WebhookReceiver]:
    with WebhookReceiver() as running:
        yield running


@pytest.fixture(scope="session")
def short_song() -> Recording:
    return song(2.0)


@pytest.fixture(scope="session")
def long_song() -> Recording:
    """Long enough to be interrupted in: the model takes a fortieth of the time that it plays."""
    return repeated(song(16.0), 10)
