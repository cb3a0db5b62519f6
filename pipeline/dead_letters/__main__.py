"""``python -m pipeline.dead_letters``: list, show, replay and drop dead letters.

Exit status: 0 for success or nothing to do; 1 if a requested letter does not exist or cannot be replayed; else an
``ExitCode``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import TypeVar
from uuid import UUID

from config import Settings
from pipeline.dead_letters.commands import NOT_DONE, DeadLetterCommands
from pipeline.dead_letters.filters import LetterFilter, duration
from pipeline.dead_letters.letter import Position
from pipeline.errors import ErrorCode, ErrorKind, InfrastructureError, PipelineError
from pipeline.service.arguments import CommandParser
from pipeline.service.command_line import run_command
from pipeline.service.run import exit_code
from pipeline.topics import Topics
from pipeline.transport.factory import open_transport

#: Required by Kafka's clients. This command joins no consumer group.
_MAX_POLL_INTERVAL_MS = 300_000

T = TypeVar("T")


def main(command_line: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status of the process."""
    arguments = parse(command_line)

    def run(settings: Settings) -> int:
        with closing(open_transport(settings, max_poll_interval_ms=_MAX_POLL_INTERVAL_MS)) as transport:
            broker = settings.kafka.bootstrap_servers or str(settings.state.broker_file)
            command: Callable[[DeadLetterCommands, argparse.Namespace], int] = arguments.run
            return command(DeadLetterCommands(transport, Topics.from_settings(settings), broker), arguments)

    def failure_status(error: PipelineError) -> int:
        return exit_code(error) if isinstance(error, InfrastructureError) else NOT_DONE

    return run_command("deadletters", run, failure_status=failure_status)


def parse(command_line: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line. ``run`` of the result takes ``DeadLetterCommands`` and the result itself.

    Ends the process with status 64 if the command line is wrong.
    """
    parser = CommandParser("pipeline.dead_letters", description="Dead letters, for operators.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    listing = commands.add_parser("list", help="list the letters")
    _add_filters(listing)
    listing.add_argument("--all", action="store_true", help="include letters that were replayed or dropped")
    listing.add_argument("--json", action="store_true", help="print one JSON object per line")
    listing.set_defaults(run=lambda run, a: run.list(a.filters, include_resolved=a.all, as_json=a.json))

    show = commands.add_parser("show", help="show one letter with its headers and its body")
    show.add_argument("id", type=_argument(Position.parse), metavar="PARTITION/OFFSET")
    show.add_argument("--raw", action="store_true", help="show URLs with their secrets")
    show.set_defaults(run=lambda run, a: run.show(a.id, raw=a.raw))

    replay = commands.add_parser("replay", help="publish messages again to the topics that they came from")
    _add_ids(replay)
    replay.add_argument("--again", action="store_true", help="include letters that were replayed or dropped before")
    replay.set_defaults(run=lambda run, a: run.replay(a.ids, a.filters, confirmed=a.yes, again=a.again))

    drop = commands.add_parser("drop", help="mark letters as of no further use; they stay in the topic")
    _add_ids(drop)
    drop.set_defaults(run=lambda run, a: run.drop(a.ids, a.filters, confirmed=a.yes))

    arguments = parser.parse_args(command_line)
    given = vars(arguments)
    arguments.filters = LetterFilter(
        code=given.get("error"),
        **{name: given.get(name) for name in ("kind", "task", "topic", "older_than", "newer_than", "limit")},
    )
    if getattr(arguments, "ids", None) and arguments.filters != LetterFilter():
        parser.error("name letters by their ids or by filters, not by both")
    if getattr(arguments, "again", False) and not arguments.ids:
        parser.error("--again needs the ids of the letters")
    return arguments


def _add_ids(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("ids", nargs="*", type=_argument(Position.parse), metavar="PARTITION/OFFSET")
    parser.add_argument("--yes", action="store_true", help="confirm; without it and without ids, only show the letters")
    _add_filters(parser)


def _add_filters(parser: argparse.ArgumentParser) -> None:
    def count(text: str) -> int:
        if not text.isdecimal() or int(text) < 1:
            raise ValueError("must be a whole number of at least 1")
        return int(text)

    add = parser.add_argument_group("filters").add_argument
    add("--error", choices=[code.value for code in ErrorCode], metavar="CODE", help="such as webhook_failed")
    add("--kind", choices=[kind.value for kind in ErrorKind], help="the class of the failure")
    add("--task", type=_argument(UUID), metavar="UUID")
    add("--topic", help="the topic whose consumer gave the message up")
    add("--older-than", type=_argument(duration), metavar="AGE", help="such as 90s, 10m, 2h, 7d")
    add("--newer-than", type=_argument(duration), metavar="AGE")
    add("--limit", type=_argument(count), metavar="N", help="the oldest N")


def _argument(parse_text: Callable[[str], T]) -> Callable[[str], T]:
    """Wrap ``parse_text`` so that argparse shows the sentence of its ValueError."""

    def convert(text: str) -> T:
        try:
            return parse_text(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text!r}: {error}") from None

    return convert


if __name__ == "__main__":
    sys.exit(main())
