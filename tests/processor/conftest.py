"""The demo model in a folder of its own, and the processes that audio-separator may be imported in."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from demo.centre_model import DEMO_MODEL_NAME, write_demo_model
from processor.ipc import ChildSettings
from processor.workers.supervisor import WorkerSupervisor


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder that knows the demo model and no other. Not to be changed."""
    return write_demo_model(tmp_path_factory.mktemp("models")).parent


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for an engine's working files."""
    return tmp_path_factory.mktemp("scratch")


@pytest.fixture(scope="session")
def upstream_process() -> Iterator[ProcessPoolExecutor]:
    """A process that runs functions of ``tests.processor.separation.upstream_calls``.

    audio-separator is imported only there, once, because it leaves warning filters, loggers and lazy modules behind
    that would affect other tests.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        yield pool


@pytest.fixture(scope="session")
def warm(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerSupervisor]:
    """The real child with the demo model: to start one takes ten seconds and more. It may be killed."""
    scratch = tmp_path_factory.mktemp("scratch")
    process = WorkerSupervisor(ChildSettings(model_dir, DEMO_MODEL_NAME, False, scratch))
    yield process
    process.close()
