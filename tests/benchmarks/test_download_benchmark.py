"""The benchmark of downloads: measurements, verdicts and report."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.download.clients import CLIENTS, ENGINE, Client, Order
from benchmarks.download.faults import Ending, Verdict, summary
from benchmarks.download.laboratory import Laboratory
from benchmarks.download.measure import measure
from benchmarks.download.report import BEGIN, END, Results, download_page
from benchmarks.download.rows import ROWS, run_download_row
from benchmarks.download.server.profile import MIB, Profile

CARELESS = "careless"


def _careless(order: Order) -> Sequence[str]:
    """A client that writes wrong bytes and succeeds."""
    return (sys.executable, "-c", f"open({str(order.target)!r}, 'wb').write(b'x')")


def test_row_is_measured_and_reported(lab: Laboratory) -> None:
    engine = next(client for client in CLIENTS if client.name == ENGINE)
    row = replace(replace(ROWS[0], quick_size=2 * MIB).quick(), repeats=1)
    clients = (engine, Client(CARELESS, _careless, ("echo", "1")))
    samples = run_download_row(lab, row, clients)
    (fetched,) = samples[ENGINE]
    assert fetched.right
    assert 0 < fetched.measured.wall < fetched.measured.start_wall + 60
    assert fetched.measured.cpu > 0
    assert fetched.measured.peak > 10 * MIB
    assert not samples[CARELESS][0].right
    results = Results(clients, ["missing-client"], quick=True, rows=[(row, samples)])
    text = download_page(results)
    assert "### 2 MiB, as fast as it goes" in text
    assert "1: wrong bytes" in text
    assert "Not installed: missing-client." in text
    assert not results.engine_failed()
    as_if = {ENGINE: samples[CARELESS]}
    assert Results(clients[:1], [], quick=True, rows=[(row, as_if)]).engine_failed()


def test_client_is_killed_after_the_timeout(tmp_path: Path) -> None:
    command = (sys.executable, "-c", "import time; time.sleep(600)")
    measured = measure(command, timeout=0.1, environment={}, folder=tmp_path)
    assert measured.killed
    assert measured.exit_code == -9


def test_killed_client_resumes(lab: Laboratory) -> None:
    job = lab.job(Profile(2 * MIB, rate=3 * MIB))
    engine = next(client for client in CLIENTS if client.name == ENGINE)
    assert job.fetch(engine, timeout=60, resume=True, kill_at=MIB // 4).killed
    assert job.hash() == ""
    assert not job.fetch(engine, timeout=60, resume=True).killed
    assert job.hash() == lab.hash("old", 2 * MIB)


def test_cpu_time_and_exit_status_are_measured(tmp_path: Path) -> None:
    command = (sys.executable, "-c", "import time\nwhile time.process_time() < 0.2: pass\nraise SystemExit(7)")
    measured = measure(command, timeout=60, environment={}, folder=tmp_path)
    assert measured.cpu >= 0.2
    assert measured.exit_code == 7


@pytest.mark.parametrize("verdict", [Verdict.WRONG, Verdict.HUNG, Verdict.SWALLOWED])
def test_bad_verdict_of_the_engine_is_a_failure(verdict: Verdict) -> None:
    engine = Client(ENGINE, _careless, ("echo", "1"))
    assert Results((engine,), (), quick=False, faults=[[Ending(verdict)]]).engine_failed()
    assert not Results((engine,), (), quick=False, faults=[[Ending(Verdict.ERROR, "exit 1")]]).engine_failed()


def test_outcomes_are_summarised() -> None:
    endings = [Ending(Verdict.RIGHT, "0.1"), Ending(Verdict.ERROR, "exit 1"), Ending(Verdict.RIGHT, "0.3")]
    assert summary(endings) == "2 × right bytes, 1 × clear error; 20% fetched again"


def test_documentation_page_has_marks_for_the_report() -> None:
    page = (Path(__file__).parents[2] / "docs" / "BENCHMARKS.md").read_text()
    assert page.count(BEGIN) == page.count(END) == 1
