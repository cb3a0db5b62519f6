"""Models as rows for tables and JSON, and the progress of their downloads on a terminal."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from pipeline.progress import TransferRate
from processor.models.catalogue import Model
from processor.models.lockfile import Record
from processor.models.store import ModelStore

HEADINGS = ("NAME", "KIND", "SIZE", "STATE", "LICENCE", "STEMS")

OnFileProgress = Callable[[str, float, TransferRate], None]
"""Takes the name of a file, the fraction that has arrived (0 to 1) and the present rate."""


def listing(models: Iterable[Model], store: ModelStore) -> Iterator[dict[str, Any]]:
    """Yield one row for each model: its published facts and its state on the disk."""
    records = store.lock_file.records()
    for model in models:
        present = [file.name for file in model.files if store.has(file.name)]
        state = "sealed" if any(map(store.is_sealed, present)) else "present"
        if len(present) < len(model.files):
            state = "partial" if present else "absent"
        # The size of a model is known if that of each weights file is known; YAML files are too small to matter.
        sizes = [
            file.bytes or (records[file.name].bytes if file.name in records else None)
            for file in model.files
            if not file.name.endswith(".yaml")
        ]
        yield {
            "name": model.name,
            "title": model.title,
            "architecture": model.architecture,
            "state": state,
            "bytes": None if None in sizes else sum(filter(None, sizes)),
            "stems": list(model.stems),
            "licence": model.licence,
            "files": [_file(file, records, store) for file in map(asdict, model.files)],
        }


def table_row(row: dict[str, Any]) -> list[str]:
    """Return the cells of ``listing``'s row below ``HEADINGS``."""
    licence, stems = row["licence"] or "-", ",".join(row["stems"]) or "-"
    return [row["name"], row["architecture"], format_size(row["bytes"]), row["state"], licence, stems]


def format_size(count: int | None) -> str:
    """Return a number of bytes as ``59.1 MB``, or a dash if it is unknown."""
    return "-" if count is None else f"{count / 1e6:.1f} MB"


@contextmanager
def progress_bars() -> Iterator[OnFileProgress | None]:
    """Show the progress of downloads while the block runs; yields None unless standard error is a terminal.

    The bars replace the log lines that report the progress of downloads otherwise.
    """
    if not sys.stderr.isatty():
        yield None
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    bars: dict[str, Any] = {}
    quiet = logging.getLogger("pipeline.download_progress")
    level = quiet.level
    quiet.setLevel(logging.WARNING)
    try:
        with Progress(*columns, console=Console(stderr=True)) as progress:

            def show(name: str, fraction: float, rate: TransferRate) -> None:
                if name not in bars:
                    bars[name] = progress.add_task(name, total=1.0, rate="")
                speed = f"{(rate.bytes_per_second or 0.0) / 1e6:.1f} MB/s"
                progress.update(bars[name], completed=fraction, rate=speed)

            yield show
    finally:
        quiet.setLevel(level)


def _file(file: dict[str, Any], records: dict[str, Record], store: ModelStore) -> dict[str, Any]:
    """Return the facts of one file, as published or, where nothing is published, as recorded in the lock file."""
    record = records.get(file["name"])
    state = "sealed" if store.is_sealed(file["name"]) else "present" if store.has(file["name"]) else "absent"
    return file | {
        "urls": list(file["urls"]),
        "bytes": file["bytes"] or (record.bytes if record else None),
        "sha256": file["sha256"] or (record.sha256 if record else None),
        "known_from": "published" if file["sha256"] else "models.lock.json" if record else None,
        "state": state,
    }
