"""``python -m processor.models``: the models of MODEL_FILE_DIR. Its exit status is a ``ModelsExit``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace

from config import Settings
from pipeline.errors import InfrastructureError, PipelineError
from pipeline.files import local_errors
from pipeline.service.arguments import CommandParser
from pipeline.service.command_line import run_command
from processor.models.catalogue import ARCHITECTURES
from processor.models.commands import ModelCommands, ModelsExit
from processor.models.display import progress_bars
from processor.models.download import ModelDownloads
from processor.models.store import ModelStore


def main(command_line: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status of the process."""
    arguments = _parse(command_line)

    def run(settings: Settings) -> int:
        with local_errors():
            settings.model.model_dir.mkdir(parents=True, exist_ok=True)
        with progress_bars() as on_progress:
            downloads = replace(ModelDownloads.from_settings(settings.download), on_progress=on_progress)
            store = ModelStore(settings.model, downloads)
            command: Callable[[ModelCommands, argparse.Namespace], int] = arguments.run
            return command(ModelCommands(store, settings.model.model_name, arguments.json), arguments)

    def failure_status(error: PipelineError) -> int:
        return ModelsExit.STORAGE if isinstance(error, InfrastructureError) else ModelsExit.UNAVAILABLE

    return run_command("models", run, failure_status=failure_status)


def _parse(command_line: Sequence[str] | None) -> argparse.Namespace:
    parser = CommandParser("processor.models", description="The models in MODEL_FILE_DIR.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    listing = commands.add_parser("list", help="list the known models and the state of their files")
    _add_architecture(listing)
    listing.add_argument("--present", action="store_true", help="only models with at least one file on the disk")
    listing.set_defaults(run=lambda run, a: run.list(a.architecture, present=a.present))

    pull = commands.add_parser("pull", help="download models")
    pull.add_argument("names", nargs="*", metavar="MODEL", help="a value of MODEL_NAME, or the name of a preset")
    _add_architecture(pull)
    pull.add_argument("--all", dest="architecture", action="store_const", const=ARCHITECTURES, help="every model")
    pull.add_argument("--update", action="store_true", help="download present files again and trust the new content")
    pull.set_defaults(run=lambda run, a: run.pull(a.names, a.architecture, update=a.update), needs_choice=True)

    lists = commands.add_parser("update-lists", help="download UVR's present lists, for models newer than this version")
    lists.set_defaults(run=lambda run, _: run.update_lists())

    verify = commands.add_parser("verify", help="compare every byte of the files with the known hashes")
    verify.add_argument("names", nargs="*", metavar="MODEL", help="default: every present file")
    verify.add_argument("--repair", action="store_true", help="download missing and damaged files")
    verify.add_argument("--record", action="store_true", help="trust files without a known hash from now on")
    verify.set_defaults(run=lambda run, a: run.verify(a.names, repair=a.repair, adopt=a.record))

    prune = commands.add_parser("prune", help="remove files that no model needs")
    prune.add_argument("--keep", nargs="+", default=(), metavar="MODEL", help="keep only these and MODEL_NAME")
    prune.add_argument("--yes", action="store_true", help="confirm; without it, only show the files")
    prune.set_defaults(run=lambda run, a: run.prune(a.keep, confirmed=a.yes))

    seal = commands.add_parser("seal", help="encrypt models with the key of MODEL_KEY_FILE or MODEL_KEY_COMMAND")
    seal.add_argument("names", nargs="+", metavar="MODEL")
    seal.set_defaults(run=lambda run, a: run.seal(a.names))

    for command in commands.choices.values():
        command.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args(command_line)
    if getattr(arguments, "needs_choice", False) and not (arguments.names or arguments.architecture):
        parser.error("name models, or add --architecture or --all")
    return arguments


def _add_architecture(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--architecture",
        action="append",
        default=[],
        choices=ARCHITECTURES,
        help="every model of this architecture",
    )


if __name__ == "__main__":
    sys.exit(main())
