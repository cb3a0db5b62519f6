"""A short chaos run: faults under load, and an audit that passes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from devstack.kafka.broker import fetch_kafka
from devstack.s3 import fetch_s3_server
from tests.chaos.schedule import DESTRUCTIVE, Kind, plan
from tests.support.servers import require

#: A seed whose first minute has every kind of fault, and a kill -9 of every sort of process.
SEED, MINUTES, FAULTS, JOBS = 2446, 1.0, 26.0, 18.0
#: Maximum duration of the run on a slow machine, s.
MAX_SECONDS = 540.0


def test_short_run_contains_every_kind_of_fault() -> None:
    faults = plan(SEED, MINUTES, faults_per_minute=FAULTS, jobs_per_minute=JOBS).faults
    assert {fault.kind for fault in faults} == set(Kind) - DESTRUCTIVE
    killed = {fault.target.partition("-")[0] for fault in faults if fault.kind is Kind.KILL}
    assert killed == {"api", "processor", "child", "uploader", "broker", "s3"}
    assert {fault.target for fault in faults} >= {"source", "receiver", "cluster"}


@pytest.mark.slow
@pytest.mark.kafka
@pytest.mark.s3
@pytest.mark.timeout(MAX_SECONDS + 600)  # the tools may have to be downloaded
def test_short_run_loses_nothing(tools_dir: Path, tmp_path: Path) -> None:
    require(lambda: fetch_kafka(tools_dir))
    require(lambda: fetch_s3_server(tools_dir))
    options = {
        "--seed": SEED,
        "--minutes": MINUTES,
        "--faults": FAULTS,
        "--jobs": JOBS,
        "--crashes": 3,
        "--drain": 180,
        "--folder": tmp_path / "chaos",
    }
    arguments = [str(part) for option in options.items() for part in option]
    output = tmp_path / "output"
    with output.open("wb") as file:
        run = subprocess.run(
            [sys.executable, "-m", "tests.chaos", *arguments],
            stdout=file,
            stderr=subprocess.STDOUT,
            timeout=MAX_SECONDS,
            check=False,
        )
    assert run.returncode == 0, output.read_text(encoding="utf-8")
