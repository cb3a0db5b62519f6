"""``python -m processor.models``: manage the models in MODEL_FILE_DIR. The exit status is a ``ModelsExit``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from config import ConfigError, Settings, load
from pipeline.errors import InfrastructureError, PipelineError
from pipeline.files import local_errors
from pipeline.service.logs import configure_logging
from processor.models.catalogue import ARCHITECTURES
from processor.models.commands import ModelCommands, ModelsExit
from processor.models.download import ModelDownloads
from processor.models.options import StoreOptions
from processor.models.store import ModelStore


def main(command_line: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status."""
    arguments = _parse(command_line)
    try:
        settings = load()
        configure_logging("models", settings.log)
        run: Callable[[ModelCommands, argparse.Namespace], int] = arguments.run
        return run(_commands(settings, arguments), arguments)
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return ModelsExit.CONFIG
    except PipelineError as error:
        sys.stderr.write(f"{error.message}\n")
        return ModelsExit.STORAGE if isinstance(error, InfrastructureError) else ModelsExit.UNAVAILABLE
    except KeyboardInterrupt:
        return ModelsExit.KILLED
    except BrokenPipeError:
        # The reader has closed the pipe, like head(1). Python flushes at exit: send the rest to /dev/null.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ModelsExit.OK


def _commands(settings: Settings, arguments: argparse.Namespace) -> ModelCommands:
    folder = settings.model.model_dir.absolute()
    with local_errors():
        folder.mkdir(parents=True, exist_ok=True)
    network = ModelDownloads.from_settings(settings.download)
    store = ModelStore(folder, network, StoreOptions.from_settings(settings.model))
    return ModelCommands(store, settings.model.model_name, arguments.json)


class _Parser(argparse.ArgumentParser):
    """Exits with ``ModelsExit.USAGE`` for an invalid command line."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(ModelsExit.USAGE, f"{self.prog}: {message}\n")


def _parse(command_line: Sequence[str] | None) -> argparse.Namespace:
    parser = _Parser(prog="python -m processor.models", description="The models in MODEL_FILE_DIR.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_list(commands.add_parser("list", help="list the models, and those in MODEL_FILE_DIR"))
    _add_pull(commands.add_parser("pull", help="download models"))
    _add_verify(commands.add_parser("verify", help="compare every byte of the files with the expected content"))
    _add_prune(commands.add_parser("prune", help="remove files that no model needs"))
    _add_seal(commands.add_parser("seal", help="encrypt models with the key of MODEL_KEY_FILE or MODEL_KEY_COMMAND"))
    for command in commands.choices.values():
        command.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args(command_line)
    if getattr(arguments, "needs_choice", False) and not (arguments.names or arguments.architecture):
        parser.error("name models, or use --architecture or --all")
    return arguments


def _add_list(parser: argparse.ArgumentParser) -> None:
    _add_architecture(parser)
    parser.add_argument("--present", action="store_true", help="only models in MODEL_FILE_DIR, complete or partial")
    parser.set_defaults(run=lambda commands, a: commands.show(a.architecture, present=a.present))


def _add_pull(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="*", metavar="MODEL", help="a name as in MODEL_NAME, or the name of a preset")
    _add_architecture(parser)
    parser.add_argument("--all", dest="architecture", action="store_const", const=ARCHITECTURES, help="every model")
    parser.add_argument("--update", action="store_true", help="download files again, and trust their new content")
    parser.set_defaults(
        run=lambda commands, a: commands.pull(a.names, a.architecture, update=a.update), needs_choice=True
    )


def _add_verify(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="*", metavar="MODEL", help="default: every file in MODEL_FILE_DIR")
    parser.add_argument("--repair", action="store_true", help="download missing and damaged files")
    parser.add_argument("--record", action="store_true", help="trust files whose expected content is not known")
    parser.set_defaults(run=lambda commands, a: commands.verify(a.names, repair=a.repair, adopt=a.record))


def _add_prune(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--keep", nargs="+", default=(), metavar="MODEL", help="keep only these and MODEL_NAME")
    parser.add_argument("--yes", action="store_true", help="remove the files instead of listing them")
    parser.set_defaults(run=lambda commands, a: commands.prune(a.keep, sure=a.yes))


def _add_seal(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="+", metavar="MODEL")
    parser.set_defaults(run=lambda commands, a: commands.seal(a.names))


def _add_architecture(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--architecture", action="append", default=[], choices=ARCHITECTURES, help="every model of this kind"
    )


if __name__ == "__main__":
    sys.exit(main())
