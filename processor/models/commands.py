"""What ``python -m processor.models`` does: each command says on standard output what it found or did."""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass
from enum import IntEnum
from typing import Any

from pipeline.errors import PermanentError, TransientError
from processor.models import maintenance
from processor.models.catalogue import Catalogue, Model, ModelFile, list_file, read_catalogue
from processor.models.display import lines, listing, models_table
from processor.models.errors import NotServedError, unknown_model
from processor.models.model_lists import UVR_LIST
from processor.models.presets import expanded
from processor.models.store import ModelStore


class ModelsExit(IntEnum):
    """What the exit status means. The values above zero are those of BSD's sysexits.h, as ``ExitCode``'s are."""

    OK = 0
    USAGE = 64  # a wrong command line
    DAMAGED = 65  # a file is missing, is not what it has to be, or does not open
    UNKNOWN = 66  # there is no such model
    UNAVAILABLE = 69  # a file cannot be had
    INTERNAL = 70  # a defect of ours
    STORAGE = 74  # MODEL_FILE_DIR cannot be read or written, or is full
    CONFIG = 78  # a setting cannot be used
    KILLED = 130  # Ctrl-C


@dataclass(frozen=True, slots=True)
class ModelCommands:
    """Where an operator works on models. Every command raises InfrastructureError if the folder cannot be used."""

    store: ModelStore
    default: str
    """MODEL_NAME, which is never pruned."""
    as_json: bool = False

    def show(self, architectures: Collection[str], *, present: bool) -> ModelsExit:
        """Every model, or those that are ``present``, wholly or in part."""
        catalogue = read_catalogue(self.store.folder)
        chosen = [model for model in catalogue if not architectures or model.architecture in architectures]
        rows = [row for row in listing(chosen, self.store) if row["state"] != "absent" or not present]
        if self.as_json:
            _say_json(rows)
            return ModelsExit.OK
        _say(lines(rows))
        if not catalogue.has_uvr_list:
            _complain(f"{UVR_LIST} is not in MODEL_FILE_DIR: this is what is known without it")
        return ModelsExit.OK

    def pull(self, names: Sequence[str], architectures: Collection[str], *, update: bool) -> ModelsExit:
        """Have all files of the named models, or of all of these kinds; ``update``: whatever they are now."""
        outcomes, status = self._pull([list_file(UVR_LIST)], update=update)
        catalogue = read_catalogue(self.store.folder)
        chosen, strange = _chosen(catalogue, names)
        chosen += [model for model in catalogue if model.architecture in architectures]
        _complain_of(strange)
        files = maintenance.files_of(chosen)
        files.pop(UVR_LIST, None)
        more, worse = self._pull(files.values(), update=update)
        self._report([*outcomes, *more])
        return worse or status or (ModelsExit.UNKNOWN if strange else ModelsExit.OK)

    def seal(self, names: Sequence[str]) -> ModelsExit:
        """Encrypt the files of the named models in place."""
        chosen, strange = _chosen(read_catalogue(self.store.folder), names)
        done = []
        for file in {file.name: file for model in chosen for file in model.files}:
            try:
                did = self.store.seal(file)
            except TransientError as error:
                _complain(error.message)
                return ModelsExit.CONFIG
            done.append(
                {"file": file, "state": "sealed" if did else "was sealed" if self.store.has(file) else "absent"}
            )
        self._report(done)
        _complain_of(strange)
        return ModelsExit.UNKNOWN if strange else ModelsExit.OK

    def verify(self, names: Sequence[str], *, repair: bool, adopt: bool) -> ModelsExit:
        """Compare every byte of the named models', or all present, files with what is known of them."""
        catalogue = read_catalogue(self.store.folder)
        chosen, strange = _chosen(catalogue, names)
        files = maintenance.files_of(chosen) if names else maintenance.files_present(self.store, catalogue)
        findings = [maintenance.verify(self.store, file, repair=repair, adopt=adopt) for file in files.values()]
        self._report([asdict(finding) for finding in findings])
        _complain_of(strange)
        if any(finding.state.is_trouble for finding in findings):
            return ModelsExit.DAMAGED
        return ModelsExit.UNKNOWN if strange else ModelsExit.OK

    def prune(self, keep: Sequence[str], *, sure: bool) -> ModelsExit:
        """Remove what no model needs or, with ``keep``, what these models and MODEL_NAME do not need, if ``sure``."""
        catalogue = read_catalogue(self.store.folder)
        if not catalogue.has_uvr_list:
            _complain(f"{UVR_LIST} is not in MODEL_FILE_DIR: nobody knows what is needed, and nothing is removed")
            return ModelsExit.UNAVAILABLE
        chosen, strange = _chosen(catalogue, [*keep, self.default] if keep else ())
        if strange := [name for name in strange if name != self.default or not keep]:
            _complain(f"there is no model named {', '.join(strange)}: nothing is removed")
            return ModelsExit.UNKNOWN
        entries = maintenance.superfluous(self.store, catalogue, chosen if keep else None)
        state = "removed" if sure else "would be removed"
        done = maintenance.remove(self.store, entries) if sure else entries
        self._report([{"file": entry.name, "state": state} for entry in done])
        if entries and not sure:
            _complain("nothing is removed without --yes")
        return ModelsExit.OK

    def _pull(self, files: Iterable[ModelFile], *, update: bool) -> tuple[list[dict[str, Any]], ModelsExit]:
        outcomes, status = [], ModelsExit.OK
        for file in files:
            try:
                fetched = self.store.pull(file, anew=update)
                outcomes.append({"file": file.name, "state": "fetched" if fetched else "present"})
            except (NotServedError, TransientError) as error:
                status = ModelsExit.UNAVAILABLE
                outcomes.append({"file": file.name, "state": "failed", "detail": str(error)})
        return outcomes, status

    def _report(self, outcomes: Sequence[dict[str, Any]]) -> None:
        if self.as_json:
            _say_json(outcomes)
        else:
            _say(
                models_table(
                    None, [[outcome["file"], outcome["state"], outcome.get("detail", "")] for outcome in outcomes]
                )
            )


def _chosen(catalogue: Catalogue, names: Iterable[str]) -> tuple[list[Model], list[str]]:
    """The models of these names, those of presets among them, and the names that no model has."""
    found, strange = [], []
    for name in expanded(names):
        try:
            found.append(catalogue.find(name))
        except PermanentError:
            strange.append(name)
    return found, strange


def _say(lines: Iterable[str]) -> None:
    sys.stdout.writelines(f"{line}\n" for line in lines)
    sys.stdout.flush()


def _say_json(rows: Iterable[dict[str, Any]]) -> None:
    _say([json.dumps(list(rows), indent=1)])


def _complain_of(strange: Iterable[str]) -> None:
    for name in strange:
        _complain(unknown_model(name).message)


def _complain(sentence: str) -> None:
    sys.stderr.write(f"{sentence}\n")
