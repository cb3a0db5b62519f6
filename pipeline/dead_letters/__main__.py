"""``python -m pipeline.dead_letters``: list, show, replay and drop dead letters.

Exit status: 0 done, or nothing to do; 1 a letter that was asked for is not there or cannot be replayed; 2 a wrong
command line; else an ``ExitCode``.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import TypeVar
from uuid import UUID

from config import ConfigError, Settings, load
from pipeline.dead_letters.commands import NOT_DONE, DeadLetterCommands
from pipeline.dead_letters.filters import Selection, duration
from pipeline.dead_letters.letter import Position
from pipeline.errors import ErrorCode, ErrorKind, InfrastructureError, PermanentError
from pipeline.service.logs import configure_logging
from pipeline.service.run import exit_code, operator_message
from pipeline.service.shutdown import ExitCode
from pipeline.topics import Topics
from pipeline.transport.factory import open_transport

#: Required by Kafka's clients; this command is no member of a group.
_MAX_POLL_INTERVAL_MS = 300_000

T = TypeVar("T")


def main(command_line: Sequence[str] | None = None) -> int:
    """Do what the command line says."""
    arguments = parse(command_line)
    try:
        settings = load()
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return ExitCode.CONFIG
    configure_logging("deadletters", settings.log)
    try:
        return _run(settings, arguments)
    except InfrastructureError as error:
        sys.stderr.write(f"{operator_message(error)}\n")
        return exit_code(error)
    except PermanentError as error:
        sys.stderr.write(f"{error.message}\n")
        return NOT_DONE
    except KeyboardInterrupt:
        return ExitCode.KILLED
    except BrokenPipeError:
        # Whoever read has left, as head(1) does. What Python would write at its exit goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return NOT_DONE


def parse(command_line: Sequence[str] | None = None) -> argparse.Namespace:
    """The arguments; ``run`` is the command, to be called with a desk and them. Ends the process if they are wrong."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.dead_letters", description="Dead letters, for operators.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_list(commands.add_parser("list", help="what lies there"))
    _add_show(commands.add_parser("show", help="one letter with its headers and its body"))
    _add_replay(commands.add_parser("replay", help="send messages on their way again"))
    _add_drop(commands.add_parser("drop", help="mark letters as of no further use; they stay in the topic"))
    arguments = parser.parse_args(command_line)
    arguments.selection = _selection(arguments)
    if getattr(arguments, "ids", None) and arguments.selection != Selection():
        parser.error("name letters by their ids or by filters, not by both")
    if getattr(arguments, "again", False) and not arguments.ids:
        parser.error("--again needs the ids of the letters")
    return arguments


def _run(settings: Settings, arguments: argparse.Namespace) -> int:
    with closing(open_transport(settings, max_poll_interval_ms=_MAX_POLL_INTERVAL_MS)) as transport:
        place = settings.kafka.bootstrap_servers or str(settings.state.broker_file)
        run: Callable[[DeadLetterCommands, argparse.Namespace], int] = arguments.run
        status = run(DeadLetterCommands(transport, Topics.from_settings(settings), place), arguments)
        sys.stdout.flush()
        return status


def _add_list(parser: argparse.ArgumentParser) -> None:
    _add_filters(parser)
    parser.add_argument("--all", action="store_true", help="with those that were replayed or dropped")
    parser.add_argument("--json", action="store_true", help="one JSON object per line")
    parser.set_defaults(run=lambda desk, a: desk.list(a.selection, resolved=a.all, as_json=a.json))


def _add_show(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("id", type=_typed(Position.parse), metavar="PARTITION/OFFSET")
    parser.add_argument("--raw", action="store_true", help="URLs with their secrets")
    parser.set_defaults(run=lambda desk, a: desk.show(a.id, raw=a.raw))


def _add_replay(parser: argparse.ArgumentParser) -> None:
    _add_choice(parser)
    parser.add_argument("--again", action="store_true", help="even those that were replayed or dropped before")
    parser.set_defaults(run=lambda desk, a: desk.replay(a.ids, a.selection, sure=a.yes, again=a.again))


def _add_drop(parser: argparse.ArgumentParser) -> None:
    _add_choice(parser)
    parser.set_defaults(run=lambda desk, a: desk.drop(a.ids, a.selection, sure=a.yes))


def _add_choice(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("ids", nargs="*", type=_typed(Position.parse), metavar="PARTITION/OFFSET")
    parser.add_argument("--yes", action="store_true", help="do it; without ids nothing is done otherwise, only shown")
    _add_filters(parser)


def _add_filters(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("filters").add_argument
    add("--error", choices=[code.value for code in ErrorCode], metavar="CODE", help="such as webhook_failed")
    add("--kind", choices=[kind.value for kind in ErrorKind], help="what the failure meant for the job")
    add("--task", type=_typed(UUID), metavar="UUID")
    add("--topic", help="where the message could not be worked on")
    add("--older-than", type=_typed(duration), metavar="AGE", help="such as 90s, 10m, 2h, 7d")
    add("--newer-than", type=_typed(duration), metavar="AGE")
    add("--limit", type=_typed(_count), metavar="N", help="the oldest N")


def _selection(arguments: argparse.Namespace) -> Selection:
    given = vars(arguments)
    return Selection(
        code=given.get("error"),
        **{name: given.get(name) for name in ("kind", "task", "topic", "older_than", "newer_than", "limit")},
    )


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ValueError("must be a number from 1 on")
    return int(text)


def _typed(parse_text: Callable[[str], T]) -> Callable[[str], T]:
    """``parse_text`` as argparse wants it: the sentence of its ValueError is shown."""

    def typed(text: str) -> T:
        try:
            return parse_text(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text!r}: {error}") from None

    return typed


if __name__ == "__main__":
    sys.exit(main())
