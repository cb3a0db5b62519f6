"""Share the real servers between tests; the first test that needs one starts it. Order the tests by duration."""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from devstack.kafka.broker import KafkaBroker
from devstack.s3 import S3Server, fetch_s3_server
from devstack.tools.cache import tools_folder
from tests.support.kafka_litter import LEAVES_SOCKETS
from tests.support.servers import require

#: Folders with the longest test files. Those of one group alternate: the first is limited by the CPU, others wait more.
LONGEST_GROUPS = (("chaos",), ("e2e", "conformance", "devstack"), ("processor", "deploy", "demo"))
REPOSITORY = Path(__file__).resolve().parents[1]

# Without this, an imported ONNX Runtime sends telemetry, in the middle of another test and through that test's proxy.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
# The small networks in the tests' processes need only one thread. Several threads wait for each other in busy loops;
# when other tests use the cores as well, one second becomes minutes.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def tools_dir() -> Path:
    """Return the folder of fetched tools. It is in the checkout, so that a second run of the suite fetches nothing."""
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
    """Return a real S3 server; a test may stop, kill or pause it."""
    yield _s3_process
    _s3_process.resume()
    _s3_process.start()


@pytest.fixture(scope="session")
def _kafka_process(tools_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaBroker]:
    broker = KafkaBroker(tools_dir, tmp_path_factory.mktemp("kafka"))
    require(broker.start)  # also fetches it, which takes minutes on a new machine
    yield broker
    broker.stop()


@pytest.fixture
def kafka_broker(_kafka_process: KafkaBroker) -> Iterator[KafkaBroker]:
    """Return a real Apache Kafka; a test may stop, kill or pause it."""
    yield _kafka_process
    _kafka_process.resume()
    _kafka_process.start()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort the longest files first, and ignore the sockets that Kafka's client leaves open.

    A file that takes minutes must not start last, because the run would wait for it. Several files that each start a
    whole service at the same time are slow and exceed their time limits.
    """
    files: dict[str, dict[Path, int]] = {}
    for item in items:
        folder_files = files.setdefault(_folder(item), {})
        folder_files.setdefault(item.path, len(folder_files))

    def position(item: pytest.Item) -> tuple[int, float]:
        folder = _folder(item)
        group = next((n for n, folders in enumerate(LONGEST_GROUPS) if folder in folders), len(LONGEST_GROUPS))
        return group, files[folder][item.path] / len(files[folder]) if group < len(LONGEST_GROUPS) else 0.0

    items.sort(key=position)
    for item in items:
        if item.get_closest_marker("kafka"):
            for mark in LEAVES_SOCKETS:
                item.add_marker(mark)


def _folder(item: pytest.Item) -> str:
    return item.path.relative_to(REPOSITORY).parts[1]


@pytest.fixture(autouse=True)
def _restored_logging() -> Iterator[None]:
    """Restore the logging, which commands configure for this process, with a stream that is closed later."""
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
def _restored_umask() -> Iterator[None]:
    """Restore the umask, which services set for this process when a test calls their main function."""
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.fixture(autouse=True)
def _collect_after_kafka(request: pytest.FixtureRequest) -> None:
    """Close the sockets of Kafka's client before the next test."""
    if request.node.get_closest_marker("kafka"):
        request.getfixturevalue("no_kafka_litter")


@pytest.fixture
def no_kafka_litter() -> Iterator[None]:
    """Collect the garbage of kafka-python within the test that created it."""
    # Its log is disabled, as in a service: a record that pytest keeps would keep its error, and with it a socket.
    logger = logging.getLogger("kafka")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    yield
    gc.collect()
    logger.setLevel(level)
