"""The commands of ``python -m processor.models``. Each prints its result to standard output."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass
from enum import IntEnum
from typing import Any

from pipeline.errors import PermanentError, TransientError
from pipeline.service.command_line import print_error, print_json, print_table
from processor.models import maintenance
from processor.models.catalogue import Catalogue, Model, ModelFile, list_file, read_catalogue
from processor.models.display import HEADINGS, listing, table_row
from processor.models.errors import NotServedError, unknown_model
from processor.models.model_lists import LISTS
from processor.models.presets import expand_presets
from processor.models.store import ModelStore


class ModelsExit(IntEnum):
    """Exit statuses. The values above zero are those of BSD's sysexits.h, as in ``ExitCode``."""

    OK = 0
    USAGE = 64  # a wrong command line
    DAMAGED = 65  # a file is missing, differs from its known hash, or cannot be decrypted
    UNKNOWN = 66  # no model has that name
    UNAVAILABLE = 69  # a file cannot be downloaded
    INTERNAL = 70  # an unexpected error
    STORAGE = 74  # MODEL_FILE_DIR cannot be read or written, or is full
    CONFIG = 78  # a setting cannot be used
    KILLED = 130  # Ctrl-C


Outcomes = list[dict[str, Any]]
"""One row for each file, with ``file``, ``state`` and, for a failure, ``detail``."""


@dataclass(frozen=True, slots=True)
class ModelCommands:
    """Commands on the models of one folder. Every command raises InfrastructureError if the folder is unusable."""

    store: ModelStore
    default: str
    """MODEL_NAME, which is never pruned."""
    as_json: bool = False

    def list(self, architectures: Collection[str], *, present: bool) -> ModelsExit:
        """List every model, or those with at least one file on the disk if ``present``."""
        catalogue = read_catalogue(self.store.folder)
        models = [model for model in catalogue if not architectures or model.architecture in architectures]
        rows = [row for row in listing(models, self.store) if row["state"] != "absent" or not present]
        if self.as_json:
            print_json(rows)
            return ModelsExit.OK
        print_table(map(table_row, rows), headings=HEADINGS)
        return ModelsExit.OK

    def pull(self, names: Sequence[str], architectures: Collection[str], *, update: bool) -> ModelsExit:
        """Download the missing files of the named models and of these architectures.

        ``update`` downloads present files again and trusts the new content.
        """
        catalogue = read_catalogue(self.store.folder)
        models, unknown = _find(catalogue, names)
        models += [model for model in catalogue if model.architecture in architectures]
        _report_unknown(unknown)
        status = self._pull(maintenance.required_files(models).values(), update=update)
        return status or (ModelsExit.UNKNOWN if unknown else ModelsExit.OK)

    def update_lists(self) -> ModelsExit:
        """Download UVR's present lists into the folder. Models that only they have are known from then on."""
        return self._pull(map(list_file, LISTS), update=True)

    def seal(self, names: Sequence[str]) -> ModelsExit:
        """Encrypt the files of the named models in place."""
        models, unknown = _find(read_catalogue(self.store.folder), names)
        outcomes = []
        for name in dict.fromkeys(file.name for model in models for file in model.files):
            try:
                sealed = self.store.seal(name)
            except TransientError as error:
                print_error(error.message)
                return ModelsExit.CONFIG
            state = "sealed" if sealed else "was sealed" if self.store.has(name) else "absent"
            outcomes.append({"file": name, "state": state})
        self._report(outcomes)
        _report_unknown(unknown)
        return ModelsExit.UNKNOWN if unknown else ModelsExit.OK

    def verify(self, names: Sequence[str], *, repair: bool, adopt: bool) -> ModelsExit:
        """Compare every byte of the files with the known hashes. Without ``names``, check every present file."""
        catalogue = read_catalogue(self.store.folder)
        models, unknown = _find(catalogue, names)
        files = maintenance.required_files(models) if names else maintenance.files_present(self.store, catalogue)
        findings = [maintenance.verify(self.store, file, repair=repair, adopt=adopt) for file in files.values()]
        self._report([asdict(finding) for finding in findings])
        _report_unknown(unknown)
        if any(finding.state.is_failure for finding in findings):
            return ModelsExit.DAMAGED
        return ModelsExit.UNKNOWN if unknown else ModelsExit.OK

    def prune(self, keep: Sequence[str], *, confirmed: bool) -> ModelsExit:
        """Remove the files that no model needs or, with ``keep``, that neither these models nor MODEL_NAME need.

        Only shows the files unless ``confirmed``.
        """
        catalogue = read_catalogue(self.store.folder)
        models, unknown = _find(catalogue, [*keep, self.default] if keep else ())
        if unknown := [name for name in unknown if name != self.default or not keep]:
            print_error(f"there is no model named {', '.join(unknown)}: nothing is removed")
            return ModelsExit.UNKNOWN
        entries = maintenance.unneeded_entries(self.store, catalogue, models if keep else None)
        state = "removed" if confirmed else "would be removed"
        removed = maintenance.remove(self.store, entries) if confirmed else entries
        self._report([{"file": entry.name, "state": state} for entry in removed])
        if entries and not confirmed:
            print_error("nothing is removed without --yes")
        return ModelsExit.OK

    def _pull(self, files: Iterable[ModelFile], *, update: bool) -> ModelsExit:
        outcomes: Outcomes = []
        status = ModelsExit.OK
        for file in files:
            try:
                fetched = self.store.pull(file, update=update)
                outcomes.append({"file": file.name, "state": "fetched" if fetched else "present"})
            except (NotServedError, TransientError) as error:
                status = ModelsExit.UNAVAILABLE
                outcomes.append({"file": file.name, "state": "failed", "detail": str(error)})
        self._report(outcomes)
        return status

    def _report(self, outcomes: Outcomes) -> None:
        if self.as_json:
            print_json(outcomes)
        else:
            print_table([outcome["file"], outcome["state"], outcome.get("detail", "")] for outcome in outcomes)


def _find(catalogue: Catalogue, names: Iterable[str]) -> tuple[list[Model], list[str]]:
    """Return the models of these names, with presets expanded, and the names that no model has."""
    found, unknown = [], []
    for name in expand_presets(names):
        try:
            found.append(catalogue.find(name))
        except PermanentError:
            unknown.append(name)
    return found, unknown


def _report_unknown(names: Iterable[str]) -> None:
    for name in names:
        print_error(unknown_model(name).message)
