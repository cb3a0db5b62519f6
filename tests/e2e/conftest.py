"""Run one service per engine for all tests of this folder, because each start takes seconds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from devstack.kafka.broker import fetch_kafka
from devstack.processes.server import LocalServer
from devstack.s3 import fetch_s3_server
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
    # Several machines have no shared folder for the hand-off. A short grace period also tests returned jobs.
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
    key = service.settings.storage.aws_secret_access_key
    check_logs(folder / "logs", secrets=(CREDENTIALS[1], WEBHOOK_SECRET, *([key.get_secret_value()] if key else [])))


@pytest.fixture
def service(_service: Service) -> Iterator[Service]:
    """Return the service on each engine; a test may kill, stop or pause any part of it."""
    yield _service
    _service.restore()
    _service.wait_until_tidy()


@pytest.fixture
def servers(service: Service) -> dict[str, LocalServer]:
    """Return the broker and the store, for tests that kill, stop or pause them. The embedded engines have none."""
    return service.stack.servers


@pytest.fixture
def quick_engine(service: Service) -> None:
    """Restrict a test to the embedded engine, if its subject does not depend on the engine."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect tests of this folder on engines that they do not apply to."""
    wrong_engine = {"servers": "embedded", "quick_engine": "kafka"}

    def applies(test: pytest.Function) -> bool:
        engine = test.callspec.params.get("_service") if hasattr(test, "callspec") else None
        return all(wrong_engine.get(name, "") != engine for name in test.fixturenames)

    local = [item for item in items if isinstance(item, pytest.Function) and FOLDER in item.path.parents]
    deselected = [item for item in local if not applies(item)]
    if deselected:
        config.hook.pytest_deselected(items=deselected)
        items[:] = [item for item in items if item not in deselected]


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
    """Return a song that is long enough for an interruption; a separation takes a fortieth of its length."""
    return repeated(song(16.0), 10)
