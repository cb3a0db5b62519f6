"""The processes of a running processor that own models."""

from __future__ import annotations

from contextlib import suppress

import psutil

_COMMANDS = {"processor.workers.child", "tests.processor.workers.children.scripted"}


def separation_processes(pid: int) -> list[psutil.Process]:
    """Return the child processes of the processor ``pid`` that own models, real or scripted; not those that decode."""
    return [child for child in psutil.Process(pid).children() if _owns_models(child)]


def _owns_models(process: psutil.Process) -> bool:
    with suppress(psutil.Error):  # it has just ended
        return not _COMMANDS.isdisjoint(process.cmdline())
    return False
