"""The commands of ``python -m processor.models``. Each prints its results to standard output."""

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
from processor.models.presets import expand_presets
from processor.models.store import ModelStore


class ModelsExit(IntEnum):
    """The exit statuses. Those above zero are of BSD's sysexits.h, like those of ``ExitCode``."""

    OK = 0
    USAGE = 64  # a wrong command line
    DAMAGED = 65  # a file is missing, has other content than expected, or cannot be decrypted
    UNKNOWN = 66  # there is no such model
    UNAVAILABLE = 69  # a file cannot be downloaded
    INTERNAL = 70  # a defect of this program
    STORAGE = 74  # MODEL_FILE_DIR cannot be read or written, or is full
    CONFIG = 78  # a setting is invalid
    KILLED = 130  # Ctrl-C


@dataclass(frozen=True, slots=True)
class ModelCommands:
    """The operator's commands. Every command raises InfrastructureError if the folder cannot be used."""

    store: ModelStore
    default: str
    """MODEL_NAME, which is never pruned."""
    as_json: bool = False

    def show(self, architectures: Collection[str], *, present: bool) -> ModelsExit:
        """List every model, or those that are ``present``, completely or partly."""
        catalogue = read_catalogue(self.store.folder)
        chosen = [model for model in catalogue if not architectures or model.architecture in architectures]
        rows = [row for row in listing(chosen, self.store) if row["state"] != "absent" or not present]
        if self.as_json:
            _print_lines([json.dumps(rows, indent=1)])
            return ModelsExit.OK
        _print_lines(lines(rows))
        if not catalogue.has_uvr_list:
            _warn(f"{UVR_LIST} is not in MODEL_FILE_DIR: this list is made without it")
        return ModelsExit.OK

    def pull(self, names: Sequence[str], architectures: Collection[str], *, update: bool) -> ModelsExit:
        """Download the files of the named models, or of all models of these architectures.

        ``update``: replace files that are present, and accept their new content.
        """
        outcomes, status = self._pull([list_file(UVR_LIST)], update=update)
        catalogue = read_catalogue(self.store.folder)
        chosen, unknown = _chosen(catalogue, names)
        chosen += [model for model in catalogue if model.architecture in architectures]
        _warn_unknown(unknown)
        files = maintenance.required_files(chosen)
        files.pop(UVR_LIST, None)
        more, worse = self._pull(files.values(), update=update)
        self._report([*outcomes, *more])
        return worse or status or (ModelsExit.UNKNOWN if unknown else ModelsExit.OK)

    def seal(self, names: Sequence[str]) -> ModelsExit:
        """Encrypt the files of the named models in place."""
        chosen, unknown = _chosen(read_catalogue(self.store.folder), names)
        done = []
        for file in {file.name: file for model in chosen for file in model.files}:
            try:
                did = self.store.seal(file)
            except TransientError as error:
                _warn(error.message)
                return ModelsExit.CONFIG
            done.append(
                {"file": file, "state": "sealed" if did else "was sealed" if self.store.has(file) else "absent"}
            )
        self._report(done)
        _warn_unknown(unknown)
        return ModelsExit.UNKNOWN if unknown else ModelsExit.OK

    def verify(self, names: Sequence[str], *, repair: bool, adopt: bool) -> ModelsExit:
        """Compare every byte of the named models' files, or of all present files, with the expected content."""
        catalogue = read_catalogue(self.store.folder)
        chosen, unknown = _chosen(catalogue, names)
        files = maintenance.required_files(chosen) if names else maintenance.files_present(self.store, catalogue)
        findings = [maintenance.verify(self.store, file, repair=repair, adopt=adopt) for file in files.values()]
        self._report([asdict(finding) for finding in findings])
        _warn_unknown(unknown)
        if any(finding.state.is_failure for finding in findings):
            return ModelsExit.DAMAGED
        return ModelsExit.UNKNOWN if unknown else ModelsExit.OK

    def prune(self, keep: Sequence[str], *, sure: bool) -> ModelsExit:
        """Remove files that no model needs; with ``keep``, those that these models and MODEL_NAME do not need.

        Without ``sure``, only list them.
        """
        catalogue = read_catalogue(self.store.folder)
        if not catalogue.has_uvr_list:
            _warn(f"{UVR_LIST} is not in MODEL_FILE_DIR: it is not known what is needed, and nothing is removed")
            return ModelsExit.UNAVAILABLE
        chosen, unknown = _chosen(catalogue, [*keep, self.default] if keep else ())
        if unknown := [name for name in unknown if name != self.default or not keep]:
            _warn(f"there is no model named {', '.join(unknown)}: nothing is removed")
            return ModelsExit.UNKNOWN
        entries = maintenance.unneeded_entries(self.store, catalogue, chosen if keep else None)
        state = "removed" if sure else "would be removed"
        done = maintenance.remove(self.store, entries) if sure else entries
        self._report([{"file": entry.name, "state": state} for entry in done])
        if entries and not sure:
            _warn("nothing is removed without --yes")
        return ModelsExit.OK

    def _pull(self, files: Iterable[ModelFile], *, update: bool) -> tuple[list[dict[str, Any]], ModelsExit]:
        outcomes, status = [], ModelsExit.OK
        for file in files:
            try:
                fetched = self.store.pull(file, update=update)
                outcomes.append({"file": file.name, "state": "fetched" if fetched else "present"})
            except (NotServedError, TransientError) as error:
                status = ModelsExit.UNAVAILABLE
                outcomes.append({"file": file.name, "state": "failed", "detail": str(error)})
        return outcomes, status

    def _report(self, outcomes: Sequence[dict[str, Any]]) -> None:
        if self.as_json:
            _print_lines([json.dumps(list(outcomes), indent=1)])
        else:
            _print_lines(
                models_table(
                    None, [[outcome["file"], outcome["state"], outcome.get("detail", "")] for outcome in outcomes]
                )
            )


def _chosen(catalogue: Catalogue, names: Iterable[str]) -> tuple[list[Model], list[str]]:
    """Return the models of these names, with presets expanded, and the unknown names."""
    found, unknown = [], []
    for name in expand_presets(names):
        try:
            found.append(catalogue.find(name))
        except PermanentError:
            unknown.append(name)
    return found, unknown


def _print_lines(lines: Iterable[str]) -> None:
    sys.stdout.writelines(f"{line}\n" for line in lines)
    sys.stdout.flush()


def _warn_unknown(unknown: Iterable[str]) -> None:
    for name in unknown:
        _warn(unknown_model(name).message)


def _warn(sentence: str) -> None:
    sys.stderr.write(f"{sentence}\n")
