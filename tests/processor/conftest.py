"""The demo model in a separate folder, and processes in which audio-separator may be imported."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from demo.centre_model import DEMO_MODEL_NAME, write_demo_model
from processor.workers.supervisor import WorkerSupervisor
from tests.processor.child_settings import child_settings


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model folder with only the demo model. Tests must not change it."""
    return write_demo_model(tmp_path_factory.mktemp("models")).parent


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder for the working files of an engine."""
    return tmp_path_factory.mktemp("scratch")


@pytest.fixture(scope="session")
def upstream_process() -> Iterator[ProcessPoolExecutor]:
    """Yield a pool of one process that runs the functions of ``tests.processor.separation.upstream_calls``.

    audio-separator is imported once, in that process: its import changes warning filters, loggers and lazy modules,
    which would break other tests.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        yield pool


@pytest.fixture(scope="session")
def warm(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerSupervisor]:
    """Yield a real child with the demo model, whose start takes 10 s and more. Tests may kill it."""
    scratch = tmp_path_factory.mktemp("scratch")
    process = WorkerSupervisor(child_settings(model_dir, DEMO_MODEL_NAME, scratch))
    yield process
    process.close()
