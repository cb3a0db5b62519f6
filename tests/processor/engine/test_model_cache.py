"""The pool of loaded models: who goes when another one comes, and that his memory goes with him."""

from __future__ import annotations

import os
from collections.abc import Collection
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from pipeline.errors import ErrorCode, PermanentError, TransientError
from processor.engine.model_cache import ModelPool
from processor.models import unknown_model
from processor.separation.separator import OnProgress, ReducedSeparator, Separator, Write
from processor.system.memory import DeviceMemory, MainMemory, main_memory, pool_limit
from tests.processor.engine import several_models
from tests.processor.engine.several_models import DEMUCS, MDX, MDXC
from tests.processor.source_files import decoded, noise, write_pcm

MIB = 1 << 20

#: Bytes of the files of each model.
SIZES = {"a": 10, "b": 20, "c": 30, "vast": 1000}


class Model:
    """Takes memory as long as it lives."""

    device, stems = "nowhere", None

    def __init__(self, device: Device, size: int) -> None:
        self._device, self._size = device, size
        device.taken += size

    def separate(self, mixture: Path, write: Write, on_progress: OnProgress) -> None:
        raise NotImplementedError

    def only(self, wanted: Collection[str]) -> Separator:
        raise NotImplementedError

    def lighter(self) -> ReducedSeparator | None:
        raise NotImplementedError

    def __del__(self) -> None:
        self._device.taken -= self._size


class Device:
    """Memory that models take, ``overhead`` times their files; ``measures`` if that can be seen."""

    share = 60

    def __init__(self, *, overhead: int = 1, measures: bool = True) -> None:
        self.overhead, self.measures = overhead, measures
        self.taken = self.given_back = 0
        self.most = 0

    def used(self) -> int | None:
        return self.taken if self.measures else None

    def give_back(self) -> None:
        self.given_back += 1

    def load(self, name: str) -> Separator:
        if name == "damaged":
            raise PermanentError("it is damaged", code=ErrorCode.MODEL_UNAVAILABLE)
        model = Model(self, SIZES[name] * self.overhead)
        self.most = max(self.most, self.taken)
        return model

    def fetch(self, name: str) -> int:
        if name == "nobody":
            raise unknown_model(name)
        return SIZES.get(name, 10)

    def pool(self, limit: int | None = None, favourite: str | None = None) -> ModelPool:
        return ModelPool(self.fetch, self.load, self, limit=limit, favourite=favourite)


def asked_for(pool: ModelPool, *names: str) -> list[str]:
    """What happens while these are asked for in turn."""
    with capture_logs() as lines:
        for name in names:
            pool.get(name)
    return [f"{line['event'].removeprefix('model_')} {line['model']}" for line in lines]


def test_a_model_that_is_loaded_is_there_at_once() -> None:
    pool = Device().pool()
    assert pool.get("a") is pool.get("a")
    assert asked_for(pool, "b", "a", "b", "a") == ["loaded b"]


def test_the_one_that_was_asked_for_longest_ago_goes() -> None:
    device = Device()
    pool = device.pool(limit=50)
    assert asked_for(pool, "a", "b", "a") == ["loaded a", "loaded b"]
    assert asked_for(pool, "c") == ["dropped b", "loaded c"]
    assert asked_for(pool, "a", "b") == ["dropped c", "loaded b"]
    assert (device.taken, device.given_back) == (30, 2)


def test_no_more_go_than_must() -> None:
    assert asked_for(Device().pool(limit=60), "a", "b", "c", "a", "b", "c") == ["loaded a", "loaded b", "loaded c"]


def test_room_is_made_before_the_next_one_comes() -> None:
    """Or both would have to fit for a moment."""
    device = Device()
    asked_for(device.pool(limit=30), "c", "b", "c", "b")
    assert device.most == 30


def test_the_favourite_goes_last() -> None:
    pool = Device().pool(limit=50, favourite="a")
    assert asked_for(pool, "a", "b", "c") == ["loaded a", "loaded b", "dropped b", "loaded c"]
    assert asked_for(pool, "vast") == ["dropped c", "dropped a", "loaded vast"]
    assert asked_for(pool, "a") == ["dropped vast", "loaded a"]


def test_one_that_is_too_large_runs_alone() -> None:
    device = Device()
    pool = device.pool(limit=50)
    assert asked_for(pool, "vast", "vast") == ["loaded vast"]
    assert device.taken == 1000


def test_without_a_limit_it_is_the_memorys_own_share() -> None:
    device = Device()
    device.share = 30
    assert asked_for(device.pool(), "a", "b", "c") == ["loaded a", "loaded b", "dropped a", "dropped b", "loaded c"]


def test_what_it_really_takes_counts() -> None:
    """Known only when it is loaded: then others have to go after all."""
    pool = Device(overhead=2).pool(limit=80)
    assert asked_for(pool, "a", "b") == ["loaded a", "loaded b"]
    assert asked_for(pool, "c") == ["dropped a", "dropped b", "loaded c"]


def test_where_it_cannot_be_measured_the_files_count() -> None:
    with capture_logs() as lines:
        Device(overhead=3, measures=False).pool().get("a")
    (line,) = lines
    assert (line["bytes"], line["measured_by"]) == (10, "files")
    with capture_logs() as lines:
        Device(overhead=3).pool().get("a")
    (line,) = lines
    assert (line["bytes"], line["measured_by"], line["pool_bytes"], line["pool_limit"]) == (30, "device", 30, 60)


@pytest.mark.parametrize("name", ["nobody", "damaged"])
def test_one_that_cannot_be_had_is_not_held(name: str) -> None:
    pool = Device().pool()
    pool.get("a")
    for _ in range(2):
        with pytest.raises(PermanentError):
            pool.get(name)
    assert asked_for(pool, "a", "b") == ["loaded b"]


def test_when_memory_runs_out_all_go_but_the_one_at_work() -> None:
    device = Device()
    pool = device.pool(limit=60, favourite="a")
    for name in ("a", "c", "b"):
        pool.get(name)
    assert pool.shrink()
    assert (device.taken, device.given_back) == (20, 1)
    assert not pool.shrink()
    assert asked_for(pool, "b", "a") == ["loaded a"]


def test_one_that_does_not_fit_beside_the_others_is_loaded_alone() -> None:
    device = Device()
    pool = device.pool(limit=60)
    pool.get("a")
    load = device.load

    def tight(name: str) -> Separator:
        if device.taken:
            raise TransientError("", code=ErrorCode.OUT_OF_MEMORY)
        return load(name)

    pool._load = tight
    assert asked_for(pool, "b") == ["dropped a", "loaded b"]


def test_nobody_goes_for_one_that_there_is_not() -> None:
    pool = Device().pool(limit=10)
    pool.get("a")
    with pytest.raises(PermanentError):
        pool.get("nobody")
    assert asked_for(pool, "a") == []


def test_children_have_equal_parts_of_the_memory_that_they_share() -> None:
    """A GPU's is shared by those that are on it, the main memory by all."""
    assert pool_limit(DeviceMemory(), 900, on_device=2, in_all=6) == 450
    assert pool_limit(MainMemory(), 900, on_device=2, in_all=6) == 150
    assert pool_limit(MainMemory(), None, on_device=1, in_all=3) == MainMemory().share // 3


class TestMainMemory:
    INSTALLED = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")

    def found(self, folder: Path, membership: str, limits: dict[str, str]) -> int:
        for name, limit in limits.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(limit)
        (folder / "cgroup").write_text(membership)
        return main_memory(folder / "cgroup", folder)

    def test_without_groups_it_is_the_machines(self, tmp_path: Path) -> None:
        assert main_memory(tmp_path / "cgroup", tmp_path) == self.INSTALLED
        assert self.found(tmp_path, "0::/a\n", {"a/memory.max": "max\n"}) == self.INSTALLED

    def test_a_group_around_ours_counts_too(self, tmp_path: Path) -> None:
        limits = {"memory.max": "3000000", "a/memory.max": "1000000\n", "a/b/memory.max": "2000000\n"}
        assert self.found(tmp_path, "0::/a/b\n", limits) == 1_000_000

    def test_in_a_container_the_groups_own_files_are_at_the_root(self, tmp_path: Path) -> None:
        assert self.found(tmp_path, "0::/host/path\n", {"memory.max": "5000000\n"}) == 5_000_000

    def test_the_first_version_of_groups(self, tmp_path: Path) -> None:
        membership = "12:cpu,cpuacct:/x\n5:memory:/a\n0::/y\n"
        assert self.found(tmp_path, membership, {"memory/a/memory.limit_in_bytes": "4000000\n"}) == 4_000_000


@pytest.fixture(scope="module")
def models(library: ProcessPoolExecutor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("several")
    library.submit(several_models.write_models, folder).result(110)
    return folder


@pytest.mark.slow
def test_two_of_three_models_fit(library: ProcessPoolExecutor, models: Path, tmp_path: Path) -> None:
    def asked(*names: str, **options: Any) -> list[tuple[str, str, int]]:
        happened: list[tuple[str, str, int]] = library.submit(
            several_models.asked_in_turn, models, tmp_path, names, **options
        ).result(110)
        return happened

    all_three = asked(MDX, MDXC, DEMUCS, limit=None)
    assert [(event, model) for event, model, _ in all_three] == [("loaded", model) for model in (MDX, MDXC, DEMUCS)]
    sizes = {model: size for _, model, size in all_three}
    assert sizes[MDX] == (models / MDX).stat().st_size
    assert sizes[MDXC] > (models / MDXC).stat().st_size  # with its configuration

    in_turn = asked(MDX, MDXC, MDX, DEMUCS, MDX, MDXC, limit=sum(sizes.values()) - 1)
    assert [(event, model) for event, model, _ in in_turn] == [
        ("loaded", MDX),
        ("loaded", MDXC),
        ("dropped", MDXC),
        ("loaded", DEMUCS),
        ("dropped", DEMUCS),
        ("loaded", MDXC),
    ]
    kept = asked(MDX, MDXC, DEMUCS, MDX, limit=sum(sizes.values()) - 1, preferred=MDX)
    assert [model for event, model, _ in kept if event == "dropped"] == [MDXC]


@pytest.mark.slow
def test_models_that_are_loaded_side_by_side_do_not_know_of_each_other(
    library: ProcessPoolExecutor, models: Path, tmp_path: Path
) -> None:
    """One ``Separator`` has loaded them all."""
    mixture = decoded(write_pcm(tmp_path / "song.wav", noise(1.0), subtype="FLOAT")).mixture

    def stems(*names: str) -> list[set[str]]:
        hashes: list[set[str]] = library.submit(several_models.by_turns, models, tmp_path, mixture, names).result(90)
        return hashes

    alone = [*stems(MDX), *stems(MDXC)]
    assert len(set.union(*alone)) == 4
    assert stems(MDXC, MDX, MDXC, MDX)[-2:] == [alone[1], alone[0]]


@pytest.mark.slow
def test_the_memory_of_those_that_go_is_given_back(library: ProcessPoolExecutor, tmp_path: Path) -> None:
    """Two models of 19 MB by turns, one at a time: if they stayed, those of the last four rounds would take 150 MB."""
    mixture = decoded(write_pcm(tmp_path / "song.wav", noise(0.5), subtype="FLOAT")).mixture
    resident = library.submit(several_models.resident_in_turn, tmp_path / "models", tmp_path, mixture, 5).result(110)
    assert resident[-1] - resident[0] < 64 * MIB
