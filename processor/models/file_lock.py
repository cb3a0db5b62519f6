"""Lock a file of a folder that several processes share. The kernel releases the lock when its holder exits or dies."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


@contextmanager
def exclusive_lock(path: Path, *, on_wait: Callable[[], object] | None = None, wait: bool = True) -> Iterator[None]:
    """Hold an exclusive lock on the file ``path`` while the block runs. Creates its folder if necessary.

    The file is removed at the end. ``on_wait`` is called if another process holds the lock. Raises ``filelock.Timeout``
    in that case if ``wait`` is false, and OSError.
    """
    # Without ``flock``, a soft lock would be the alternative, but it remains after its holder was killed.
    lock = FileLock(path, fallback_to_soft=False)
    blocking = False
    while not lock.is_locked:
        path.parent.mkdir(exist_ok=True)
        try:
            lock.acquire(blocking=blocking)
        except FileNotFoundError:  # another process has removed the empty folder meanwhile
            continue
        except Timeout:
            if not wait:
                raise
            if on_wait:
                on_wait()
            blocking = True
    try:
        yield
    finally:
        # The lock is still held: a process that waits for the removed file notices that, and locks a new one.
        path.unlink(missing_ok=True)
        lock.release()
