"""The same seed gives the same run, another seed another one, and no run breaks more than can be survived."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections import Counter

import pytest

from tests.chaos.schedule import BROKERS, MISSING, POISON, SONGS, Fault, Kind, Schedule, plan

SEEDS = (1, 2, 3)


def long(seed: int) -> Schedule:
    return plan(seed, 30, faults_per_minute=18, jobs_per_minute=20)


def test_the_same_seed_is_the_same_schedule() -> None:
    assert long(7) == long(7)
    assert list(long(7).lines()) == list(long(7).lines())
    assert long(7).digest == long(7).digest


def test_another_seed_is_another_schedule() -> None:
    assert len({long(seed).digest for seed in SEEDS}) == len(SEEDS)


def test_the_schedule_does_not_depend_on_the_process() -> None:
    """Python shuffles its hashes anew in every process."""
    code = "from tests.chaos.schedule import plan; print(plan(7, 30, faults_per_minute=18, jobs_per_minute=20).digest)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == long(7).digest


@pytest.mark.parametrize("seed", SEEDS)
def test_a_long_run_has_more_than_500_faults_of_every_kind(seed: int) -> None:
    faults = long(seed).faults
    assert len(faults) > 500
    assert {fault.kind for fault in faults} == set(Kind)
    assert min(Counter(fault.kind for fault in faults).values()) >= 10


@pytest.mark.parametrize("seed", SEEDS)
def test_every_part_of_the_system_is_hit(seed: int) -> None:
    targets = {fault.target for fault in long(seed).faults}
    assert targets >= {*BROKERS, "cluster", "api", "s3", "receiver", "source"}
    assert targets >= {f"{name}-{number}" for name in ("processor", "child", "uploader") for number in (1, 2)}


@pytest.mark.parametrize("seed", SEEDS)
def test_at_most_one_broker_is_away_at_a_time(seed: int) -> None:
    away = [fault for fault in long(seed).faults if fault.target in (*BROKERS, "cluster")]
    assert away
    assert_apart(away)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_target_has_one_fault_at_a_time(seed: int) -> None:
    faults = long(seed).faults
    for target in {fault.target for fault in faults}:
        for disk in (True, False):  # a disk may be full while its service is killed
            assert_apart([each for each in faults if each.target == target and (each.kind is Kind.DISK_FULL) is disk])


@pytest.mark.parametrize("seed", SEEDS)
def test_everything_is_over_at_the_end(seed: int) -> None:
    schedule = long(seed)
    assert all(fault.at + fault.duration <= schedule.seconds + 0.001 for fault in schedule.faults)
    assert all(0 < job.at < schedule.seconds for job in schedule.jobs)


@pytest.mark.parametrize("minutes", [1, 30])
def test_jobs_of_every_sort_come(minutes: int) -> None:
    jobs = plan(1, minutes, faults_per_minute=18, jobs_per_minute=40).jobs
    songs = Counter(job.song for job in jobs)
    assert songs[POISON] >= 1
    assert songs[MISSING] >= 1
    assert sum(songs[name] for name in SONGS) > 0.8 * len(jobs)
    assert {job.priority for job in jobs} == set(range(1, 6))


def test_a_schedule_can_be_read_line_by_line() -> None:
    schedule = plan(1, 1, faults_per_minute=18, jobs_per_minute=20)
    lines = list(schedule.lines())
    assert len(lines) == 1 + len(schedule.faults) + len(schedule.jobs)
    assert '"kind"' in lines[1]


def assert_apart(faults: list[Fault]) -> None:
    for earlier, later in itertools.pairwise(faults):
        assert earlier.at + earlier.duration <= later.at, (earlier, later)
