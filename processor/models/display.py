"""Format models as table lines and as rows for JSON."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

from processor.models.catalogue import Model
from processor.models.lockfile import Record
from processor.models.store import ModelStore


def listing(models: Iterable[Model], store: ModelStore) -> Iterator[dict[str, Any]]:
    """Yield a row for each model, with its metadata and its state in the folder."""
    records = store.lock_file.records()
    for model in models:
        yield {
            "name": model.name,
            "title": model.title,
            "architecture": model.architecture,
            "state": _state(model, store),
            "bytes": _bytes(model, records),
            "stems": list(model.stems),
            "licence": model.licence,
            "files": [_file(file, records, store) for file in map(asdict, model.files)],
        }


def lines(rows: Iterable[dict[str, Any]]) -> Iterator[str]:
    """Yield the lines of a table."""
    headings = ("NAME", "KIND", "SIZE", "STATE", "LICENCE", "STEMS")
    return models_table(
        headings,
        [
            (
                row["name"],
                row["architecture"],
                size(row["bytes"]),
                row["state"],
                row["licence"] or "-",
                ",".join(row["stems"]) or "-",
            )
            for row in rows
        ],
    )


def models_table(headings: Sequence[str] | None, rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield lines with aligned columns."""
    everything = [headings, *rows] if headings else list(rows)
    widths = [max(map(len, column)) for column in zip(*everything, strict=True)] if everything else []
    for row in everything:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def size(count: int | None) -> str:
    """Format a size: ``59.1 MB``; a dash if it is not known."""
    return "-" if count is None else f"{count / 1e6:.1f} MB"


def _file(file: dict[str, Any], records: dict[str, Record], store: ModelStore) -> dict[str, Any]:
    """Return the published metadata of a file, completed by its record."""
    record = records.get(file["name"])
    state = "sealed" if store.is_sealed(file["name"]) else "present" if store.has(file["name"]) else "absent"
    return file | {
        "urls": list(file["urls"]),
        "bytes": file["bytes"] or (record.bytes if record else None),
        "sha256": file["sha256"] or (record.sha256 if record else None),
        "known_from": "published" if file["sha256"] else "models.lock.json" if record else None,
        "state": state,
    }


def _bytes(model: Model, records: dict[str, Record]) -> int | None:
    """Return the size of the model without YAML files; None if the size of a file is not known."""
    sizes = [
        file.bytes or (records[file.name].bytes if file.name in records else None)
        for file in model.files
        if not file.name.endswith(".yaml")
    ]
    return None if None in sizes else sum(filter(None, sizes))


def _state(model: Model, store: ModelStore) -> str:
    present = [file.name for file in model.files if store.has(file.name)]
    if len(present) < len(model.files):
        return "partial" if present else "absent"
    return "sealed" if any(map(store.is_sealed, present)) else "present"
