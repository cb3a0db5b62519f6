"""The uploader process removes what is old, and what an uploader left that was killed."""

from __future__ import annotations

import os
import sys
import time
import urllib.request
from pathlib import Path
from uuid import uuid4

from devstack.environment import isolated_environment
from devstack.processes.process import ServerProcess, free_port
from pipeline.storage.local.store import LocalStore
from pipeline.storage.object_keys import handoff_key, outcome_key
from pipeline.storage.retention import Sweeper
from tests.pipeline.storage.test_retention import RETENTION, keys_of
from tests.uploader.conftest import Bench
from tests.uploader.outcomes import Song, handle, is_handed_off
from tests.uploader.power_cuts import PowerCut, uploader_with_power_cut

ROOT = Path(__file__).parents[2]


def answer_of(url: str) -> str:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return str(answer.read().decode())
    except OSError:
        return ""


def test_the_process_sweeps_and_counts(tmp_path: Path) -> None:
    source, task = tmp_path / "source", uuid4()
    source.write_bytes(b"a stem")
    store, handoff = LocalStore(tmp_path / "data" / "stems"), LocalStore(tmp_path / "data" / "handoff")
    old, young, orphan = f"{task}_old.wav", f"{task}_young.wav", handoff_key(task, "", "vocals", "0" * 64)
    for found, key in ((store, old), (store, young), (handoff, orphan)):
        found.put(key, source, content_type="audio/wav")
    store.put_new(outcome_key(task, ""), b"{}", content_type="application/json")
    os.utime(tmp_path / "data" / "stems" / old, (time.time() - 120,) * 2)

    port = free_port()
    settings = {
        "DATA_DIR": str(tmp_path / "data"),
        "UPLOADER_HEALTH_PORT": str(port),
        "RESULT_RETENTION": "60",
    }
    swept = "uvr_swept_objects_total 2.0"
    with ServerProcess(
        "uploader",
        [sys.executable, "-m", "uploader"],
        log_file=tmp_path / "log",
        ready=lambda: swept in answer_of(f"http://127.0.0.1:{port}/metrics"),
        cwd=ROOT,
        env=isolated_environment(settings),
    ):
        assert keys_of(store) == {young, outcome_key(task, "")}
        assert keys_of(handoff) == set()
    assert "retention_swept" in (tmp_path / "log").read_text()


def test_a_power_cut_at_any_step_leaves_nothing_in_transit_after_a_sweep(bench: Bench, song: Song) -> None:
    """Nor does a sweep between the power cut and the redelivery change the outcome."""
    cuts = range(0, 60, 4)
    for steps in cuts:
        result = bench.hand_off(song)
        try:
            handle(uploader_with_power_cut(bench, steps), result)
        except PowerCut:
            Sweeper(bench.store, bench.handoff, RETENTION, patience=0.0).sweep()
            handle(bench.uploader, result)
        webhooks = [item.json for item in bench.receiver.received if item.json["task_uuid"] == str(result.task_uuid)]
        assert {webhook["status"] for webhook in webhooks} == {"success"}
        assert len({str(webhook["stems"]) for webhook in webhooks}) == 1
        assert is_handed_off(bench, result) == [False, False]
