"""A short run of the real thing: jobs flow while everything breaks, and the ledger holds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from devstack.kafka import fetch_kafka
from devstack.s3 import fetch_s3_server
from tests.chaos.schedule import Kind, plan
from tests.support.servers import require

#: A seed whose first minute has every kind of fault, and a kill -9 of every sort of process.
SEED, MINUTES, FAULTS, JOBS = 2446, 1.0, 26.0, 18.0
#: However slow the machine, the run has ended by then, s.
LONGEST = 540.0


def test_the_short_run_is_worth_its_time() -> None:
    faults = plan(SEED, MINUTES, faults_per_minute=FAULTS, jobs_per_minute=JOBS).faults
    assert {fault.kind for fault in faults} == set(Kind)
    killed = {fault.target.partition("-")[0] for fault in faults if fault.kind is Kind.KILL}
    assert killed == {"api", "processor", "child", "uploader", "broker", "s3"}
    assert {fault.target for fault in faults} >= {"source", "receiver", "cluster"}


@pytest.mark.slow
@pytest.mark.kafka
@pytest.mark.s3
@pytest.mark.timeout(LONGEST + 600)  # the tools may have to be fetched
def test_nothing_is_lost(tools_dir: Path, tmp_path: Path) -> None:
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
            timeout=LONGEST,
            check=False,
        )
    assert run.returncode == 0, output.read_text(encoding="utf-8")
