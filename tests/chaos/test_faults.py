"""Tests that schedule and injector use the same locks; otherwise a fast machine would skip faults."""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise

import pytest

from tests.chaos.faults import held_resource
from tests.chaos.schedule import BROKERS, Fault, Kind, plan


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_faults_of_one_resource_do_not_overlap(seed: int) -> None:
    held: dict[str, list[Fault]] = defaultdict(list)
    for fault in plan(seed, 30, faults_per_minute=18, jobs_per_minute=20).faults:
        held[held_resource(fault)].append(fault)
    for faults in held.values():
        for earlier, later in pairwise(faults):
            assert earlier.at + earlier.duration <= later.at, (earlier, later)


def test_brokers_share_one_lock() -> None:
    targets = (*BROKERS, "cluster")
    assert {held_resource(Fault(1, 0.0, Kind.DROP, target, 1.0)) for target in targets} == {"brokers"}


def test_child_shares_the_lock_of_its_processor_but_a_disk_does_not() -> None:
    assert held_resource(Fault(1, 0.0, Kind.KILL, "child-2", 0.0)) == "processor-2"
    assert held_resource(Fault(1, 0.0, Kind.RESTART, "processor-2", 0.0)) == "processor-2"
    assert held_resource(Fault(1, 0.0, Kind.DISK_FULL, "processor-2", 0.0)) == "processor-2 disk"
