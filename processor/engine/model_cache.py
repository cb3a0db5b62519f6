"""The cache of loaded models: the least recently used model is evicted first.

The total size of the models stays below a limit. A model's size is the device memory that it takes, measured around its
loading, or, where that cannot be measured, the size of its files. A model that exceeds the limit by itself is loaded
all the same, alone.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from pipeline.errors import ErrorCode, TransientError
from pipeline.service.logs import get_logger
from processor.separation.separator import Separator
from processor.system.memory import Memory

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _CachedModel:
    separator: Separator
    bytes: int


class ModelCache:
    """Loaded models by name. Not thread-safe."""

    def __init__(
        self,
        fetch: Callable[[str], int],
        load: Callable[[str], Separator],
        memory: Memory,
        *,
        limit: int | None = None,
        preferred: str | None = None,
    ) -> None:
        """``fetch`` downloads a model's files if necessary and returns their bytes; ``load`` loads the model from them.

        ``limit``: bytes; None: the share that ``memory`` defines. ``preferred``: the model that is evicted last.
        """
        self._fetch, self._load, self._memory = fetch, load, memory
        self._limit = memory.share if limit is None else limit
        self._preferred = preferred
        self._models: OrderedDict[str, _CachedModel] = OrderedDict()

    def get(self, name: str) -> Separator:
        """Return the model, loading it if necessary, and mark it as the most recently used one.

        The separator is valid until the next call, which may evict it: a caller that keeps a reference keeps its memory
        allocated. Raises what ``fetch`` and ``load`` raise.
        """
        if name not in self._models:
            self._add(name)
        self._models.move_to_end(name)
        return self._models[name].separator

    def shrink(self) -> bool:
        """Evict all models except the most recently used one and return whether any was evicted."""
        others = list(self._models)[:-1]
        for name in others:
            self._evict(name, "out of memory")
        self._memory.give_back()
        return bool(others)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the loaded models, the most recently used one last."""
        return tuple(self._models)

    @property
    def bytes(self) -> int:
        """The total size of the loaded models."""
        return sum(model.bytes for model in self._models.values())

    def _add(self, name: str) -> None:
        file_bytes = self._fetch(name)  # before anything is evicted for a model that does not exist
        self._evict_until_fits(file_bytes)
        before, started = self._memory.used(), time.monotonic()
        try:
            separator = self._load(name)
        except TransientError as error:
            if error.code is not ErrorCode.OUT_OF_MEMORY or not self._models:
                raise
            separator = None
        if separator is None:  # outside of the handler, because the exception refers to memory of the failed attempt
            for other in list(self._models):
                self._evict(other, "out of memory")
            self._memory.give_back()
            separator = self._load(name)
        seconds, after = time.monotonic() - started, self._memory.used()
        # The measurement includes other processes on the device; a model takes no less than the size of its files.
        measured = None if before is None or after is None else after - before
        size = file_bytes if measured is None else max(file_bytes, measured)
        self._evict_until_fits(size)
        self._models[name] = _CachedModel(separator, size)
        log.info(
            "model_loaded",
            model=name,
            bytes=size,
            measured_by="files" if measured is None else "device",
            seconds=round(seconds, 3),
            loaded=list(self._models),
            pool_bytes=self.bytes,
            pool_limit=self._limit,
        )

    def _evict(self, name: str, reason: str) -> None:
        model = self._models.pop(name)
        log.info(
            "model_evicted",
            model=name,
            reason=reason,
            bytes=model.bytes,
            pool_bytes=self.bytes,
            pool_limit=self._limit,
        )

    def _evict_until_fits(self, wanted: int) -> None:
        """Evict models until ``wanted`` bytes fit below the limit, or none is left."""
        evicted = False
        while self._models and self.bytes + wanted > self._limit:
            name = next((name for name in self._models if name != self._preferred), None) or next(iter(self._models))
            self._evict(name, "limit")
            evicted = True
        if evicted:
            self._memory.give_back()
