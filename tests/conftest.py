"""The real servers that tests of several folders share: started once, by the first test that needs them."""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from devstack.kafka import KafkaBroker
from devstack.s3 import S3Server, fetch_s3_server
from devstack.tools import tools_folder
from tests.support.kafka_litter import LEAVES_SOCKETS
from tests.support.servers import require

#: Folders whose files take longest. Those of one line take turns: the first of it works most, the others wait most.
LONGEST = (("chaos",), ("e2e", "conformance", "devstack"), ("processor", "deploy", "demo"))
REPOSITORY = Path(__file__).resolve().parents[1]

# ONNX Runtime, where a test imports it, would report to its maker: in the middle of another test, through its proxy.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
# The small networks of the processes that tests start need no more than a thread. Several would wait for each other in
# loops where nothing keeps them from it, and if the cores have other tests' work as well, a second becomes minutes.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def tools_dir() -> Path:
    """Fetched tools are kept in the checkout, so that a second run of the suite fetches nothing."""
    return tools_folder(REPOSITORY / ".local" / "tools")


@pytest.fixture(scope="session")
def _s3_tools(tools_dir: Path) -> Path:
    require(lambda: fetch_s3_server(tools_dir))
    return tools_dir


@pytest.fixture(scope="session")
def _s3_process(_s3_tools: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with S3Server(_s3_tools, tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def s3_server(_s3_process: S3Server) -> Iterator[S3Server]:
    """A real S3 server; a test may stop, kill or pause it."""
    yield _s3_process
    _s3_process.resume()
    _s3_process.start()


@pytest.fixture(scope="session")
def _kafka_process(tools_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaBroker]:
    broker = KafkaBroker(tools_dir, tmp_path_factory.mktemp("kafka"))
    require(broker.start)  # fetches it as well, which on a new machine takes minutes
    yield broker
    broker.stop()


@pytest.fixture
def kafka_broker(_kafka_process: KafkaBroker) -> Iterator[KafkaBroker]:
    """A real Apache Kafka; a test may stop, kill or pause it."""
    yield _kafka_process
    _kafka_process.resume()
    _kafka_process.start()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first; and what Kafka's client leaves behind is nothing that a test is to blame for."""
    _take_turns(items)
    for item in items:
        if item.get_closest_marker("kafka"):
            for mark in LEAVES_SOCKETS:
                item.add_marker(mark)


def _take_turns(items: list[pytest.Item]) -> None:
    """A file that takes minutes and is begun last is waited for by all others; several that start a whole service each
    at the same time are slow, and see their limits exceeded.
    """
    files: dict[str, dict[Path, int]] = {}
    for item in items:
        of_folder = files.setdefault(_folder(item), {})
        of_folder.setdefault(item.path, len(of_folder))

    def turn(item: pytest.Item) -> tuple[int, float]:
        folder = _folder(item)
        line = next((number for number, folders in enumerate(LONGEST) if folder in folders), len(LONGEST))
        return line, files[folder][item.path] / len(files[folder]) if line < len(LONGEST) else 0.0

    items.sort(key=turn)


def _folder(item: pytest.Item) -> str:
    return item.path.relative_to(REPOSITORY).parts[1]


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    """A command that a test calls sets up the log of its process: the tests' own, and on a stream that is closed."""
    root, structured = logging.getLogger(), structlog.get_config()
    before, level = list(root.handlers), root.level
    yield
    for handler in list(root.handlers):
        if type(handler) is logging.StreamHandler and handler not in before:
            root.removeHandler(handler)
    root.setLevel(level)
    structlog.configure(**structured)
    logging.captureWarnings(False)


@pytest.fixture(autouse=True)
def _tidy_after_kafka(request: pytest.FixtureRequest) -> None:
    """Nor is it left to the next test."""
    if request.node.get_closest_marker("kafka"):
        request.getfixturevalue("no_kafka_litter")


@pytest.fixture
def no_kafka_litter() -> Iterator[None]:
    """What kafka-python leaves to the garbage collector is collected within the test that made it."""
    # Its log is silenced as in a service; a record that pytest keeps would keep its error, and with it a socket.
    logger = logging.getLogger("kafka")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    yield
    gc.collect()
    logger.setLevel(level)
