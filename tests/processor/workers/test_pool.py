"""Several children: which of them a job goes to, and what becomes of the others when one of them is gone."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from pipeline.backoff import Backoff
from pipeline.cancellation import CancelToken
from pipeline.errors import ErrorCode, InfrastructureError, PoisonError
from pipeline.service.metrics import REGISTRY
from pipeline.service.shutdown import StopSignal
from processor.audio.decode import Mixture
from processor.workers import pool as pool_module
from processor.workers.pool import WorkerPool
from processor.workers.supervisor import WorkerSupervisor
from tests.processor.workbench import Bench, open_bench, result_of, scripted_process
from tests.processor.worker_threads import DEADLINE, WorkerThreads, eventually, open_worker_threads


@dataclass(frozen=True)
class Stage:
    """A fleet whose children have a folder each."""

    root: Path
    processes: Sequence[WorkerSupervisor]
    pool: WorkerPool
    cancel: CancelToken
    lanes: WorkerThreads

    def start(self, ready: int | None = None) -> None:
        """And wait until so many are ready, all of them unless it is said."""
        self.pool.start(self.cancel)
        eventually(lambda: sum(bool(process.ready) for process in self.processes) == (ready or len(self.processes)))

    def chosen(self, model: str | None = None) -> int:
        """Which child a job for ``model`` goes to, and is done by."""
        with self.pool.lease(self.cancel, model) as lease:
            lease.slot.separate(
                Mixture(self.root / "mixture.wav", 1.0, 44_100, ()),
                self.root,
                model=model,
                stems=None,
                timeout=DEADLINE,
                cancel=self.cancel,
                on_progress=lambda _fraction: None,
            )
            return self.processes.index(lease.slot)

    def states(self) -> list[str]:
        return [str(each["state"]) for each in self.pool.status()]

    def ready(self, device: str) -> float | None:
        return REGISTRY.get_sample_value("uvr_separation_processes_ready", {"device": device})


Opener = Callable[..., Stage]


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Opener]:
    """``stage(("work",), …)``: the behaviours of each child, one after the other; ``labels`` of their devices."""
    with ExitStack() as stack:
        lanes = stack.enter_context(open_worker_threads())

        def open_stage(*children: Sequence[str], labels: Sequence[str] = "012345") -> Stage:
            processes = [
                scripted_process(tmp_path / str(slot), label, *behaviours)
                for slot, (behaviours, label) in enumerate(zip(children, labels, strict=False))
            ]
            stop = StopSignal(DEADLINE)
            opened = Stage(tmp_path, processes, WorkerPool(processes, stop), CancelToken(), lanes)
            stack.callback(opened.pool.close)
            stack.callback(opened.cancel.cancel, ErrorCode.SHUTTING_DOWN)
            stack.callback(stop.request, "the test is over")
            return opened

        yield open_stage


# --- which child ---


def test_the_least_recently_used_one_is_taken(stage: Opener) -> None:
    at = stage(("work",), ("work",), ("work",))
    at.start()
    assert [at.chosen() for _ in range(6)] == [0, 1, 2, 0, 1, 2]


def test_one_that_has_the_model_goes_before(stage: Opener) -> None:
    at = stage(("hold_in_job",), ("hold_in_job",), ("hold_in_job",))
    at.start()
    first = [at.chosen(model) for model in ("a.onnx", "b.onnx")]
    assert [at.chosen(model) for model in ("b.onnx", "b.onnx", "a.onnx", "b.onnx")] == [
        first[index] for index in (1, 1, 0, 1)
    ]
    assert at.chosen("c.onnx") == 2
    assert [each["models"] for each in at.pool.status()] == [["a.onnx"], ["b.onnx"], ["c.onnx"]]


def test_nobody_waits_for_one_that_has_the_model_while_another_is_free(stage: Opener) -> None:
    at = stage(("hold_in_job",), ("hold_in_job",))
    at.start()
    has_it = at.chosen("a.onnx")
    with at.pool.lease(at.cancel, "a.onnx") as lease:
        assert at.processes.index(lease.slot) == has_it
        assert at.chosen("a.onnx") != has_it


def test_jobs_spread_over_the_devices(stage: Opener) -> None:
    at = stage(*[("work",)] * 4, labels="0011")
    at.start()
    with at.pool.lease(at.cancel, None) as one, at.pool.lease(at.cancel, None) as two:
        assert {one.slot.device.label, two.slot.device.label} == {"0", "1"}
        assert at.ready("0") == at.ready("1") == 2


# --- what is there and what is not ---


def test_work_flows_as_soon_as_one_is_ready(stage: Opener) -> None:
    at = stage(("hang_in_setup",), ("work",), ("refuse_setup",))
    at.start(ready=1)
    eventually(lambda: at.states() == ["loading", "ready", "unavailable"])
    at.pool.check()
    assert [at.chosen() for _ in range(3)] == [1, 1, 1]
    assert [at.ready(label) for label in "012"] == [0, 1, 0]
    last = at.pool.status()[2]
    assert (last["device"], last["pid"], last["error"]) == ("2", None, "there is no model today")


def test_if_none_can_be_the_first_one_says_why(stage: Opener) -> None:
    at = stage(("refuse_setup",), ("exit_in_setup",))
    with pytest.raises(InfrastructureError, match="there is no model today"):
        at.pool.start(at.cancel)
    with pytest.raises(InfrastructureError, match="no separation process is ready") as caught:
        at.pool.check()
    assert "0: there is no model today; 1: the separation process ended with status 3" in caught.value.message


def test_one_that_was_gone_comes_back_by_itself(stage: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "ABSENT", Backoff(base=0.01, cap=0.02))
    at = stage(("work",), ("refuse_setup", "work", "refuse_setup", "exit_in_setup", "work"))
    at.start()
    pid = at.processes[1].pid
    assert pid
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: at.processes[1].pid != pid and at.states() == ["ready", "ready"])
    assert at.pool.status()[1].keys() == {"device", "name", "pid", "models", "state"}


def test_the_end_is_the_end_of_all(stage: Opener) -> None:
    at = stage(("work",), ("hang_in_setup",))
    at.start(ready=1)
    eventually(lambda: all(process.pid for process in at.processes))
    pids = [process.pid for process in at.processes]
    at.pool.close()
    assert not any(pid and psutil.pid_exists(pid) for pid in pids)
    assert at.states() == ["unavailable", "unavailable"]


# --- jobs ---


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    with ExitStack() as stack:
        yield lambda *behaviours, **options: stack.enter_context(open_bench(tmp_path, *behaviours, **options))


def begun(at: Bench, *paths: str) -> bool:
    return all((at.root / path).exists() for path in paths)


def warmed_up(at: Bench) -> None:
    """The job-less start: each child is ready."""
    for process in at.handler.pool._processes:
        process.start(CancelToken())


def test_as_many_separate_at_a_time_as_there_are_children(bench: Callable[..., Bench]) -> None:
    at = bench("finish_when_told_in_job", others=[["finish_when_told_in_job"]])
    warmed_up(at)
    handling = [at.job().handle() for _ in range(3)]
    eventually(lambda: begun(at, "begun-1", "1/begun-1"))
    at.wait_for_queue(3)
    assert [each["state"] for each in at.handler.pool.status()] == ["separating", "separating"]
    (at.root / "1" / "go-1").touch()
    eventually(lambda: begun(at, "1/begun-2"))  # the third, while the first is still at it
    (at.root / "1" / "go-2").touch()
    eventually(lambda: sum(lane.done() for lane in handling) == 2)
    at.allow_to_finish(1)
    assert [result_of(lane).status for lane in handling] == ["success"] * 3


def test_a_death_is_nothing_to_those_beside_it(bench: Callable[..., Bench]) -> None:
    at = bench("finish_when_told_in_job", others=[["die_in_job", "finish_when_told_in_job"]])
    warmed_up(at)
    survivor = at.handler.pool._processes[0].pid
    handling = [at.job().handle() for _ in range(2)]
    eventually(lambda: any(lane.done() for lane in handling))
    (dead,) = (lane for lane in handling if lane.done())
    assert isinstance(dead.exception(), PoisonError)
    eventually(lambda: [each["state"] for each in at.handler.pool.status()] == ["separating", "ready"])
    assert at.handler.pool._processes[0].pid == survivor
    at.allow_to_finish(1)
    assert [result_of(lane).status for lane in handling if lane is not dead] == ["success"]


def test_a_job_that_finds_its_child_gone_goes_to_another(bench: Callable[..., Bench]) -> None:
    """Nothing is held, nothing is counted: the circuit stays closed."""
    at = bench("die_before_the_job", others=[["finish_when_told_in_job"]])
    warmed_up(at)
    one = at.job().handle()  # to the first, which is there and yet is not
    eventually(lambda: begun(at, "1/begun-1"))
    (at.root / "1" / "go-1").touch()
    assert result_of(one).status == "success"
