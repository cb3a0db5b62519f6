"""Tests of the schedule: determined by the seed, and with limited concurrent faults."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections import Counter

import pytest

from tests.chaos.schedule import (
    BROKERS,
    DESTROYED_TOPICS,
    DESTRUCTIVE,
    MISSING,
    POISON,
    SONGS,
    Fault,
    Kind,
    Schedule,
    plan,
)
from tests.chaos.system.settings import topics

SEEDS = (1, 2, 3)


def long(seed: int) -> Schedule:
    return plan(seed, 30, faults_per_minute=18, jobs_per_minute=20)


def test_same_seed_gives_the_same_schedule() -> None:
    assert long(7) == long(7)
    assert list(long(7).lines()) == list(long(7).lines())
    assert long(7).digest == long(7).digest


def test_different_seeds_give_different_schedules() -> None:
    assert len({long(seed).digest for seed in SEEDS}) == len(SEEDS)


def test_schedule_does_not_depend_on_the_process() -> None:
    """Hash randomisation differs between processes."""
    code = "from tests.chaos.schedule import plan; print(plan(7, 30, faults_per_minute=18, jobs_per_minute=20).digest)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == long(7).digest


@pytest.mark.parametrize("seed", SEEDS)
def test_long_run_has_more_than_500_faults_of_every_kind(seed: int) -> None:
    faults = long(seed).faults
    assert len(faults) > 500
    assert {fault.kind for fault in faults} == set(Kind) - DESTRUCTIVE
    assert min(Counter(fault.kind for fault in faults).values()) >= 10


@pytest.mark.parametrize("seed", SEEDS)
def test_destructive_run_has_every_destruction_and_nothing_else(seed: int) -> None:
    faults = plan(seed, 30, faults_per_minute=8, jobs_per_minute=20, destructive=True).faults
    assert {fault.kind for fault in faults} == DESTRUCTIVE
    assert {fault.target for fault in faults if fault.kind is Kind.RECREATED} == set(DESTROYED_TOPICS)


def test_destroyed_topics_exist() -> None:
    assert set(DESTROYED_TOPICS) <= {topic.name for topic in topics().to_create()}


@pytest.mark.parametrize("seed", SEEDS)
def test_every_part_of_the_system_has_faults(seed: int) -> None:
    targets = {fault.target for fault in long(seed).faults}
    assert targets >= {*BROKERS, "cluster", "api", "s3", "receiver", "source"}
    assert targets >= {f"{name}-{number}" for name in ("processor", "child", "uploader") for number in (1, 2)}


@pytest.mark.parametrize("seed", SEEDS)
def test_at_most_one_broker_has_a_fault_at_a_time(seed: int) -> None:
    broker_faults = [fault for fault in long(seed).faults if fault.target in (*BROKERS, "cluster")]
    assert broker_faults
    assert_no_overlap(broker_faults)


@pytest.mark.parametrize("seed", SEEDS)
def test_target_has_one_fault_at_a_time(seed: int) -> None:
    faults = long(seed).faults
    for target in {fault.target for fault in faults}:
        for disk in (True, False):  # a disk may be full while its service is killed
            same = [each for each in faults if each.target == target and (each.kind is Kind.DISK_FULL) is disk]
            assert_no_overlap(same)


@pytest.mark.parametrize("seed", SEEDS)
def test_all_faults_end_within_the_run(seed: int) -> None:
    schedule = long(seed)
    assert all(fault.at + fault.duration <= schedule.seconds + 0.001 for fault in schedule.faults)
    assert all(0 < job.at < schedule.seconds for job in schedule.jobs)


@pytest.mark.parametrize("minutes", [1, 30])
def test_schedule_has_jobs_of_every_type(minutes: int) -> None:
    jobs = plan(1, minutes, faults_per_minute=18, jobs_per_minute=40).jobs
    songs = Counter(job.song for job in jobs)
    assert songs[POISON] >= 1
    assert songs[MISSING] >= 1
    assert sum(songs[name] for name in SONGS) > 0.8 * len(jobs)
    assert {job.priority for job in jobs} == set(range(1, 6))


def test_schedule_has_one_line_per_item() -> None:
    schedule = plan(1, 1, faults_per_minute=18, jobs_per_minute=20)
    lines = list(schedule.lines())
    assert len(lines) == 1 + len(schedule.faults) + len(schedule.jobs)
    assert '"kind"' in lines[1]


def assert_no_overlap(faults: list[Fault]) -> None:
    for earlier, later in itertools.pairwise(faults):
        assert earlier.at + earlier.duration <= later.at, (earlier, later)
