"""Test the harness of `make bench-pipeline` and its report."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import requests
import soundfile

from benchmarks.pipeline.hooks import hook_server
from benchmarks.pipeline.report import BEGIN, END, pipeline_page
from benchmarks.pipeline.rows import ROWS, Pass, Passes, run_rows
from benchmarks.pipeline.services import BusySample, busy_time
from benchmarks.pipeline.songs import FORMATS, songs_served
from devstack.kafka.broker import fetch_kafka
from devstack.s3 import fetch_s3_server
from tests.support.servers import require

LIGHT, HEAVY = ROWS

PASSES = Passes(
    services=[Pass(20.0, 15.0, 0.96, (5.0, 20.0)), Pass(40.0, 16.0, 0.98, (7.0, 40.0))],
    sequential=[Pass(60.0, 15.0, 0.25, (20.0, 40.0))],
)


def test_report_compares_both() -> None:
    text = pipeline_page([(replace(LIGHT, lengths=(30.0, 90.0)), PASSES)], {}, quick=False)
    assert "### A light model (the demo model), 2 songs of 30 to 90 s, 120 s in all" in text
    assert "| **the services** | 30.0 | 20.0 – 40.0 | 270 | 15.5 | 97.0% | 7.25 | 13.5 | 40.0 | 2 |" in text
    assert "| one job after the other | 60.0 | 60.0 – 60.0 | 120 | 15.0 | 25.0% | 22.50 | 30.0 | 40.0 | 1 |" in text
    assert "quick run" not in text
    assert "defaults" not in text


def test_report_names_deviations_from_the_default() -> None:
    text = pipeline_page([(HEAVY.quick(), PASSES)], {"PREFETCH": "3", "HANDOFF": "local"}, quick=True)
    assert "**A quick run" in text
    assert "PREFETCH=3, HANDOFF=local" in text
    assert HEAVY.quick().repeats == LIGHT.quick().repeats == 1


def test_page_in_the_repository_has_a_place_for_the_report() -> None:
    page = (Path(__file__).parents[2] / "docs" / "BENCHMARKS.md").read_text()
    assert page.count(BEGIN) == page.count(END) == 1


def test_share_is_of_the_time_from_the_first_separation_to_the_last() -> None:
    """Before and after that time, the engine waits for other parts."""
    points = ((0, 5.0), (1, 5.0), (2, 5.8), (3, 5.8), (4, 6.6), (5, 7.0), (9, 7.0))
    samples = [BusySample(at, busy) for at, busy in points]
    busy, share = busy_time(samples)
    assert busy == pytest.approx(2.0)
    assert share == pytest.approx(2.0 / 4)
    with pytest.raises(ValueError, match="not busy"):
        busy_time(samples[:2])


def test_first_webhook_of_a_task_counts() -> None:
    with hook_server() as hooks:
        hooks.record("a", "success")
        first = hooks.wait(["a"], 1.0)
        hooks.record("a", "failed")
        assert hooks.wait(["a"], 1.0) == first
        hooks.record("b", "failed")
        with pytest.raises(RuntimeError, match="'b': 'failed'"):
            hooks.wait(["a", "b"], 1.0)
        with pytest.raises(TimeoutError):
            hooks.wait(["c"], 0.0)


def test_server_has_songs_of_all_formats(tmp_path: Path) -> None:
    target = tmp_path / "fetched"
    with songs_served(tmp_path / "songs", (1.0, 2.0, 3.0)) as songs:
        for song, form in zip(songs, FORMATS, strict=True):
            target.write_bytes(requests.get(song.url("run"), timeout=30).content)
            found = soundfile.info(target)
            assert (found.format, found.duration) == (form, pytest.approx(song.seconds, abs=0.1))


@pytest.mark.slow
@pytest.mark.kafka
@pytest.mark.s3
@pytest.mark.timeout(900)  # the first run fetches a broker and builds an S3 server
def test_services_and_sequential_program_finish_their_jobs(tmp_path: Path, tools_dir: Path) -> None:
    require(lambda: fetch_kafka(tools_dir))
    require(lambda: fetch_s3_server(tools_dir))
    ((_, passes),) = run_rows([replace(LIGHT, lengths=(3.0, 4.0), repeats=1)], tmp_path, {})
    for (run,) in (passes.services, passes.sequential):
        assert len(run.jobs) == 2
        assert 0 < run.busy < run.wall
        assert 0 < run.share <= 1
        assert max(run.jobs) <= run.wall
