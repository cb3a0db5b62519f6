"""What the schedule keeps apart, the injector keeps apart: else faults would be left out on a machine that is quick."""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise

import pytest

from tests.chaos.faults import what_is_held
from tests.chaos.schedule import BROKERS, Fault, Kind, plan


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_faults_that_hold_the_same_do_not_meet(seed: int) -> None:
    held: dict[str, list[Fault]] = defaultdict(list)
    for fault in plan(seed, 30, faults_per_minute=18, jobs_per_minute=20).faults:
        held[what_is_held(fault)].append(fault)
    for faults in held.values():
        for earlier, later in pairwise(faults):
            assert earlier.at + earlier.duration <= later.at, (earlier, later)


def test_brokers_are_held_together() -> None:
    targets = (*BROKERS, "cluster")
    assert {what_is_held(Fault(1, 0.0, Kind.DROP, target, 1.0)) for target in targets} == {"brokers"}


def test_a_child_is_held_with_its_processor_and_a_disk_is_not() -> None:
    assert what_is_held(Fault(1, 0.0, Kind.KILL, "child-2", 0.0)) == "processor-2"
    assert what_is_held(Fault(1, 0.0, Kind.RESTART, "processor-2", 0.0)) == "processor-2"
    assert what_is_held(Fault(1, 0.0, Kind.DISK_FULL, "processor-2", 0.0)) == "processor-2 disk"
