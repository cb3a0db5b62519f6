"""The cache of loaded models: which model is evicted, and that its memory is freed."""

from __future__ import annotations

import os
from collections.abc import Collection
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from pipeline.errors import ErrorCode, PermanentError, TransientError
from processor.engine.model_cache import ModelCache
from processor.models.errors import unknown_model
from processor.separation.separator import OnProgress, ReducedSeparator, Separator, Write
from processor.system.memory import DeviceMemory, MainMemory, main_memory, pool_limit
from tests.processor.engine import model_calls
from tests.processor.engine.model_calls import DEMUCS, MDX, MDXC
from tests.processor.source_files import decoded, noise, write_pcm

MIB = 1 << 20

#: Bytes of the files of each model.
SIZES = {"a": 10, "b": 20, "c": 30, "vast": 1000}


class Model:
    """Takes memory while it exists."""

    device, stems = "nowhere", None

    def __init__(self, device: Device, size: int) -> None:
        self._device, self._size = device, size
        device.taken += size

    def separate(self, mixture: Path, write: Write, on_progress: OnProgress) -> None:
        raise NotImplementedError

    def only(self, wanted: Collection[str]) -> Separator:
        raise NotImplementedError

    def reduce_memory(self) -> ReducedSeparator | None:
        raise NotImplementedError

    def __del__(self) -> None:
        self._device.taken -= self._size


class Device:
    """Memory of which models take ``overhead`` times the size of their files. ``measures``: whether usage is known."""

    share = 60

    def __init__(self, *, overhead: int = 1, measures: bool = True) -> None:
        self.overhead, self.measures = overhead, measures
        self.taken = self.given_back = 0
        self.max_taken = 0

    def used(self) -> int | None:
        return self.taken if self.measures else None

    def give_back(self) -> None:
        self.given_back += 1

    def load(self, name: str) -> Separator:
        if name == "damaged":
            raise PermanentError("it is damaged", code=ErrorCode.MODEL_UNAVAILABLE)
        model = Model(self, SIZES[name] * self.overhead)
        self.max_taken = max(self.max_taken, self.taken)
        return model

    def fetch(self, name: str) -> int:
        if name == "unknown":
            raise unknown_model(name)
        return SIZES.get(name, 10)

    def cache(self, limit: int | None = None, preferred: str | None = None) -> ModelCache:
        return ModelCache(self.fetch, self.load, self, limit=limit, preferred=preferred)


def events_of(cache: ModelCache, *names: str) -> list[str]:
    """Return the cache's log events while these models are requested in order."""
    with capture_logs() as lines:
        for name in names:
            cache.get(name)
    return [f"{line['event'].removeprefix('model_')} {line['model']}" for line in lines]


def test_loaded_model_is_reused() -> None:
    cache = Device().cache()
    assert cache.get("a") is cache.get("a")
    assert events_of(cache, "b", "a", "b", "a") == ["loaded b"]


def test_least_recently_used_model_is_evicted() -> None:
    device = Device()
    cache = device.cache(limit=50)
    assert events_of(cache, "a", "b", "a") == ["loaded a", "loaded b"]
    assert events_of(cache, "c") == ["evicted b", "loaded c"]
    assert events_of(cache, "a", "b") == ["evicted c", "loaded b"]
    assert (device.taken, device.given_back) == (30, 2)


def test_nothing_is_evicted_below_the_limit() -> None:
    assert events_of(Device().cache(limit=60), "a", "b", "c", "a", "b", "c") == ["loaded a", "loaded b", "loaded c"]


def test_eviction_precedes_loading() -> None:
    """Otherwise both models would have to fit for a moment."""
    device = Device()
    events_of(device.cache(limit=30), "c", "b", "c", "b")
    assert device.max_taken == 30


def test_preferred_model_is_evicted_last() -> None:
    cache = Device().cache(limit=50, preferred="a")
    assert events_of(cache, "a", "b", "c") == ["loaded a", "loaded b", "evicted b", "loaded c"]
    assert events_of(cache, "vast") == ["evicted c", "evicted a", "loaded vast"]
    assert events_of(cache, "a") == ["evicted vast", "loaded a"]


def test_model_above_the_limit_is_loaded_alone() -> None:
    device = Device()
    cache = device.cache(limit=50)
    assert events_of(cache, "vast", "vast") == ["loaded vast"]
    assert device.taken == 1000


def test_default_limit_is_the_share_of_the_memory() -> None:
    device = Device()
    device.share = 30
    assert events_of(device.cache(), "a", "b", "c") == ["loaded a", "loaded b", "evicted a", "evicted b", "loaded c"]


def test_measured_memory_counts() -> None:
    """The size is known only after loading, which may cause further evictions."""
    cache = Device(overhead=2).cache(limit=80)
    assert events_of(cache, "a", "b") == ["loaded a", "loaded b"]
    assert events_of(cache, "c") == ["evicted a", "evicted b", "loaded c"]


def test_file_size_counts_where_memory_cannot_be_measured() -> None:
    with capture_logs() as lines:
        Device(overhead=3, measures=False).cache().get("a")
    (line,) = lines
    assert (line["bytes"], line["measured_by"]) == (10, "files")
    with capture_logs() as lines:
        Device(overhead=3).cache().get("a")
    (line,) = lines
    assert (line["bytes"], line["measured_by"], line["pool_bytes"], line["pool_limit"]) == (30, "device", 30, 60)


@pytest.mark.parametrize("name", ["unknown", "damaged"])
def test_model_that_fails_to_load_is_not_cached(name: str) -> None:
    cache = Device().cache()
    cache.get("a")
    for _ in range(2):
        with pytest.raises(PermanentError):
            cache.get(name)
    assert events_of(cache, "a", "b") == ["loaded b"]


def test_shrink_evicts_all_but_the_model_in_use() -> None:
    device = Device()
    cache = device.cache(limit=60, preferred="a")
    for name in ("a", "c", "b"):
        cache.get(name)
    assert cache.shrink()
    assert (device.taken, device.given_back) == (20, 1)
    assert not cache.shrink()
    assert events_of(cache, "b", "a") == ["loaded a"]


def test_load_is_retried_alone_after_out_of_memory() -> None:
    device = Device()
    cache = device.cache(limit=60)
    cache.get("a")
    load = device.load

    def load_alone(name: str) -> Separator:
        if device.taken:
            raise TransientError("", code=ErrorCode.OUT_OF_MEMORY)
        return load(name)

    cache._load = load_alone
    assert events_of(cache, "b") == ["evicted a", "loaded b"]


def test_unknown_model_evicts_nothing() -> None:
    cache = Device().cache(limit=10)
    cache.get("a")
    with pytest.raises(PermanentError):
        cache.get("unknown")
    assert events_of(cache, "a") == []


def test_children_share_memory_equally() -> None:
    """The children on a GPU share its memory; all children share the main memory."""
    assert pool_limit(DeviceMemory(), 900, children_on_device=2, children_on_machine=6) == 450
    assert pool_limit(MainMemory(), 900, children_on_device=2, children_on_machine=6) == 150
    assert pool_limit(MainMemory(), None, children_on_device=1, children_on_machine=3) == MainMemory().share // 3


class TestMainMemory:
    INSTALLED = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")

    def found(self, folder: Path, membership: str, limits: dict[str, str]) -> int:
        for name, limit in limits.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(limit)
        (folder / "cgroup").write_text(membership)
        return main_memory(folder / "cgroup", folder)

    def test_installed_memory_without_cgroups(self, tmp_path: Path) -> None:
        assert main_memory(tmp_path / "cgroup", tmp_path) == self.INSTALLED
        assert self.found(tmp_path, "0::/a\n", {"a/memory.max": "max\n"}) == self.INSTALLED

    def test_limit_of_a_parent_cgroup(self, tmp_path: Path) -> None:
        limits = {"memory.max": "3000000", "a/memory.max": "1000000\n", "a/b/memory.max": "2000000\n"}
        assert self.found(tmp_path, "0::/a/b\n", limits) == 1_000_000

    def test_cgroup_root_in_a_container(self, tmp_path: Path) -> None:
        assert self.found(tmp_path, "0::/host/path\n", {"memory.max": "5000000\n"}) == 5_000_000

    def test_cgroup_v1(self, tmp_path: Path) -> None:
        membership = "12:cpu,cpuacct:/x\n5:memory:/a\n0::/y\n"
        assert self.found(tmp_path, membership, {"memory/a/memory.limit_in_bytes": "4000000\n"}) == 4_000_000


@pytest.fixture(scope="module")
def models(upstream_process: ProcessPoolExecutor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("several")
    upstream_process.submit(model_calls.write_models, folder).result(110)
    return folder


@pytest.mark.slow
def test_limit_for_two_of_three_models(upstream_process: ProcessPoolExecutor, models: Path, tmp_path: Path) -> None:
    def events(*names: str, **options: Any) -> list[tuple[str, str, int]]:
        logged: list[tuple[str, str, int]] = upstream_process.submit(
            model_calls.cache_events, models, tmp_path, names, **options
        ).result(110)
        return logged

    all_three = events(MDX, MDXC, DEMUCS, limit=None)
    assert [(event, model) for event, model, _ in all_three] == [("loaded", model) for model in (MDX, MDXC, DEMUCS)]
    sizes = {model: size for _, model, size in all_three}
    assert sizes[MDX] == (models / MDX).stat().st_size
    assert sizes[MDXC] > (models / MDXC).stat().st_size  # includes its configuration

    alternating = events(MDX, MDXC, MDX, DEMUCS, MDX, MDXC, limit=sum(sizes.values()) - 1)
    assert [(event, model) for event, model, _ in alternating] == [
        ("loaded", MDX),
        ("loaded", MDXC),
        ("evicted", MDXC),
        ("loaded", DEMUCS),
        ("evicted", DEMUCS),
        ("loaded", MDXC),
    ]
    kept = events(MDX, MDXC, DEMUCS, MDX, limit=sum(sizes.values()) - 1, preferred=MDX)
    assert [model for event, model, _ in kept if event == "evicted"] == [MDXC]


@pytest.mark.slow
def test_loaded_models_are_independent(upstream_process: ProcessPoolExecutor, models: Path, tmp_path: Path) -> None:
    """The same ``Separator`` of audio-separator has loaded them all."""
    mixture = decoded(write_pcm(tmp_path / "song.wav", noise(1.0), subtype="FLOAT")).mixture

    def stems(*names: str) -> list[set[str]]:
        hashes: list[set[str]] = upstream_process.submit(
            model_calls.stem_hashes, models, tmp_path, mixture, names
        ).result(90)
        return hashes

    alone = [*stems(MDX), *stems(MDXC)]
    assert len(set.union(*alone)) == 4
    assert stems(MDXC, MDX, MDXC, MDX)[-2:] == [alone[1], alone[0]]


@pytest.mark.slow
def test_memory_of_evicted_models_is_freed(upstream_process: ProcessPoolExecutor, tmp_path: Path) -> None:
    """Two models of 19 MB alternate. Without freeing, those of the last four rounds would take 150 MB."""
    mixture = decoded(write_pcm(tmp_path / "song.wav", noise(0.5), subtype="FLOAT")).mixture
    resident = upstream_process.submit(model_calls.resident_bytes, tmp_path / "models", tmp_path, mixture, 5).result(
        110
    )
    assert resident[-1] - resident[0] < 64 * MIB
