"""Several children: the assignment of jobs, and the effect of one child's death on the others."""

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
    """A pool whose children have a folder each."""

    root: Path
    processes: Sequence[WorkerSupervisor]
    pool: WorkerPool
    cancel: CancelToken
    threads: WorkerThreads

    def start(self, ready: int | None = None) -> None:
        """Start the pool, and wait until ``ready`` children are ready; by default all."""
        self.pool.start(self.cancel)
        eventually(lambda: sum(bool(process.ready) for process in self.processes) == (ready or len(self.processes)))

    def separate_and_get_index(self, model: str | None = None) -> int:
        """Run a job for ``model``; return the index of the child that it was assigned to."""
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
    """``stage(("work",), …)``: the successive behaviours of each child; ``labels``: of their devices."""
    with ExitStack() as stack:
        threads = stack.enter_context(open_worker_threads())

        def open_stage(*children: Sequence[str], labels: Sequence[str] = "012345") -> Stage:
            processes = [
                scripted_process(tmp_path / str(slot), label, *behaviours)
                for slot, (behaviours, label) in enumerate(zip(children, labels, strict=False))
            ]
            stop = StopSignal(DEADLINE)
            opened = Stage(tmp_path, processes, WorkerPool(processes, stop), CancelToken(), threads)
            stack.callback(opened.pool.close)
            stack.callback(opened.cancel.cancel, ErrorCode.SHUTTING_DOWN)
            stack.callback(stop.request, "the test is over")
            return opened

        yield open_stage


# --- choice of a child ---


def test_least_recently_used_child_is_chosen(stage: Opener) -> None:
    at = stage(("work",), ("work",), ("work",))
    at.start()
    assert [at.separate_and_get_index() for _ in range(6)] == [0, 1, 2, 0, 1, 2]


def test_child_with_the_model_is_preferred(stage: Opener) -> None:
    at = stage(("hold_in_job",), ("hold_in_job",), ("hold_in_job",))
    at.start()
    first = [at.separate_and_get_index(model) for model in ("a.onnx", "b.onnx")]
    assert [at.separate_and_get_index(model) for model in ("b.onnx", "b.onnx", "a.onnx", "b.onnx")] == [
        first[index] for index in (1, 1, 0, 1)
    ]
    assert at.separate_and_get_index("c.onnx") == 2
    assert [each["models"] for each in at.pool.status()] == [["a.onnx"], ["b.onnx"], ["c.onnx"]]


def test_free_child_is_preferred_to_waiting_for_a_warm_one(stage: Opener) -> None:
    at = stage(("hold_in_job",), ("hold_in_job",))
    at.start()
    warm_index = at.separate_and_get_index("a.onnx")
    with at.pool.lease(at.cancel, "a.onnx") as lease:
        assert at.processes.index(lease.slot) == warm_index
        assert at.separate_and_get_index("a.onnx") != warm_index


def test_jobs_are_spread_over_devices(stage: Opener) -> None:
    at = stage(*[("work",)] * 4, labels="0011")
    at.start()
    with at.pool.lease(at.cancel, None) as one, at.pool.lease(at.cancel, None) as two:
        assert {one.slot.device.label, two.slot.device.label} == {"0", "1"}
        assert at.ready("0") == at.ready("1") == 2


# --- start and restart ---


def test_one_ready_child_is_enough(stage: Opener) -> None:
    at = stage(("hang_in_setup",), ("work",), ("refuse_setup",))
    at.start(ready=1)
    eventually(lambda: at.states() == ["loading", "ready", "unavailable"])
    at.pool.check()
    assert [at.separate_and_get_index() for _ in range(3)] == [1, 1, 1]
    assert [at.ready(label) for label in "012"] == [0, 1, 0]
    last = at.pool.status()[2]
    assert (last["device"], last["pid"], last["error"]) == ("2", None, "there is no model today")


def test_start_fails_with_the_first_childs_reason(stage: Opener) -> None:
    at = stage(("refuse_setup",), ("exit_in_setup",))
    with pytest.raises(InfrastructureError, match="there is no model today"):
        at.pool.start(at.cancel)
    with pytest.raises(InfrastructureError, match="no separation process is ready") as caught:
        at.pool.check()
    assert "0: there is no model today; 1: the separation process ended with status 3" in caught.value.message


def test_failed_child_is_restarted_until_it_is_ready(stage: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "RESTART_BACKOFF", Backoff(base=0.01, cap=0.02))
    at = stage(("work",), ("refuse_setup", "work", "refuse_setup", "exit_in_setup", "work"))
    at.start()
    pid = at.processes[1].pid
    assert pid
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: at.processes[1].pid != pid and at.states() == ["ready", "ready"])
    assert at.pool.status()[1].keys() == {"device", "name", "pid", "models", "state"}


def test_close_ends_all_children(stage: Opener) -> None:
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


def files_exist(at: Bench, *paths: str) -> bool:
    return all((at.root / path).exists() for path in paths)


def start_all(at: Bench) -> None:
    """Wait until every child is ready."""
    for process in at.handler.pool._processes:
        process.start(CancelToken())


def test_jobs_run_on_all_children_concurrently(bench: Callable[..., Bench]) -> None:
    at = bench("finish_when_released_in_job", others=[["finish_when_released_in_job"]])
    start_all(at)
    handling = [at.job().handle() for _ in range(3)]
    eventually(lambda: files_exist(at, "begun-1", "1/begun-1"))
    at.wait_for_queue(3)
    assert [each["state"] for each in at.handler.pool.status()] == ["separating", "separating"]
    (at.root / "1" / "go-1").touch()
    eventually(lambda: files_exist(at, "1/begun-2"))  # the third job, while the first one still runs
    (at.root / "1" / "go-2").touch()
    eventually(lambda: sum(lane.done() for lane in handling) == 2)
    at.allow_to_finish(1)
    assert [result_of(lane).status for lane in handling] == ["success"] * 3


def test_death_of_a_child_does_not_affect_the_others(bench: Callable[..., Bench]) -> None:
    at = bench("finish_when_released_in_job", others=[["die_in_job", "finish_when_released_in_job"]])
    start_all(at)
    survivor = at.handler.pool._processes[0].pid
    handling = [at.job().handle() for _ in range(2)]
    eventually(lambda: any(lane.done() for lane in handling))
    (dead,) = (lane for lane in handling if lane.done())
    assert isinstance(dead.exception(), PoisonError)
    eventually(lambda: [each["state"] for each in at.handler.pool.status()] == ["separating", "ready"])
    assert at.handler.pool._processes[0].pid == survivor
    at.allow_to_finish(1)
    assert [result_of(lane).status for lane in handling if lane is not dead] == ["success"]


def test_job_whose_child_is_gone_is_assigned_to_another(bench: Callable[..., Bench]) -> None:
    """The job is not delayed and not counted: the circuit breaker stays closed."""
    at = bench("die_before_the_job", others=[["finish_when_released_in_job"]])
    start_all(at)
    one = at.job().handle()  # to the first child, which dies before the job
    eventually(lambda: files_exist(at, "1/begun-1"))
    (at.root / "1" / "go-1").touch()
    assert result_of(one).status == "success"
