"""The models that are loaded, least recently used first, and which of them has to go for another one.

What they take together stays below a limit: of the device's memory as it is measured around a loading, or, where
nothing can be measured, of the bytes of their files. One that alone takes more is loaded all the same, alone.
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
class _Held:
    separator: Separator
    bytes: int


class ModelPool:
    """Loaded models by name. Not thread-safe."""

    def __init__(
        self,
        fetch: Callable[[str], int],
        load: Callable[[str], Separator],
        memory: Memory,
        *,
        limit: int | None = None,
        favourite: str | None = None,
    ) -> None:
        """``fetch`` brings a model's files and tells their bytes; ``load`` loads it from them.

        ``limit``: bytes; None: the memory's own share. ``favourite``: goes when all the others have gone.
        """
        self._fetch, self._load, self._memory = fetch, load, memory
        self._limit = memory.share if limit is None else limit
        self._favourite = favourite
        self._held: OrderedDict[str, _Held] = OrderedDict()

    def get(self, name: str) -> Separator:
        """The model, which is loaded if it is not; it is the most recently used one from now on.

        Good until the next call, which may drop it: whoever keeps it longer keeps its memory. Raises what ``fetch`` and
        ``load`` raise.
        """
        if name not in self._held:
            self._take_in(name)
        self._held.move_to_end(name)
        return self._held[name].separator

    def shrink(self) -> bool:
        """Drop all models but the one that was asked for last, and give back what can be; whether any were dropped."""
        others = list(self._held)[:-1]
        for name in others:
            self._drop(name, "memory ran out")
        self._memory.give_back()
        return bool(others)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the loaded models, the one that was asked for last at the end."""
        return tuple(self._held)

    @property
    def bytes(self) -> int:
        """What the loaded models take together."""
        return sum(held.bytes for held in self._held.values())

    def _take_in(self, name: str) -> None:
        files = self._fetch(name)  # before another one is dropped for a model that there is not
        self._make_room(files)
        before, started = self._memory.used(), time.monotonic()
        separator = self._loaded(name)
        seconds, after = time.monotonic() - started, self._memory.used()
        # Other processes' doings on the same device are measured as well; a model takes no less than its weights.
        measured = None if before is None or after is None else after - before
        size = files if measured is None else max(files, measured)
        self._make_room(size)
        self._held[name] = _Held(separator, size)
        log.info(
            "model_loaded",
            model=name,
            bytes=size,
            measured_by="files" if measured is None else "device",
            seconds=round(seconds, 3),
            loaded=list(self._held),
            pool_bytes=self.bytes,
            pool_limit=self._limit,
        )

    def _loaded(self, name: str) -> Separator:
        """Loaded; at a second try if there was not enough memory beside the other models."""
        try:
            return self._load(name)
        except TransientError as error:
            if error.code is not ErrorCode.OUT_OF_MEMORY or not self._held:
                raise
        for other in list(self._held):
            self._drop(other, "memory ran out")
        self._memory.give_back()
        return self._load(name)

    def _drop(self, name: str, why: str) -> None:
        held = self._held.pop(name)
        log.info(
            "model_dropped",
            model=name,
            why=why,
            bytes=held.bytes,
            pool_bytes=self.bytes,
            pool_limit=self._limit,
        )

    def _make_room(self, wanted: int) -> None:
        """Drop models until ``wanted`` bytes fit beside the others, or there are no others."""
        dropped = False
        while self._held and self.bytes + wanted > self._limit:
            name = next((name for name in self._held if name != self._favourite), None) or next(iter(self._held))
            self._drop(name, "the limit")
            dropped = True
        if dropped:
            self._memory.give_back()
