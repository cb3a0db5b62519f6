"""Prints the rights of each program as commands of Kafka: ``python -m deploy.kafka_acls [--prefix PREFIX]``.

A broker with access control lists refuses a program without them. The commands grant the least rights that the programs
need. Topics and groups have the names of the settings. Nothing is sent to the broker.
"""

from __future__ import annotations

import itertools
import shlex
import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence

from config import ConfigError, Settings
from pipeline.service.arguments import CommandParser
from pipeline.service.run import load_settings
from pipeline.service.shutdown import ExitCode
from pipeline.topics import Topics
from pipeline.transport import Topic

#: The operations of ``deploy.make_topics``: create topics, add partitions, and update their configuration.
_TOPIC_ADMINISTRATION = ("Create", "Alter", "AlterConfigs")
#: Maximum length of a line, characters.
_WIDTH = 110


def main(arguments: Sequence[str] | None = None) -> ExitCode:
    """Print the commands."""
    parser = CommandParser(
        "deploy.kafka_acls",
        description="Print the kafka-acls commands that grant each program the rights that it needs.",
    )
    parser.add_argument("--prefix", default="uvr-", help="first part of the principals' names; default: uvr-")
    options = parser.parse_args(arguments)
    try:
        settings = load_settings("kafka_acls")
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return ExitCode.CONFIG
    sys.stdout.write("\n".join(acl_commands(settings, options.prefix)) + "\n")
    return ExitCode.OK


def acl_commands(settings: Settings, prefix: str) -> Iterator[str]:
    """Yield the commands. ``prefix``: the first part of the principals' names."""
    kafka, topics = settings.kafka, Topics.from_settings(settings)
    tool = f"kafka-acls --bootstrap-server {kafka.bootstrap_servers or 'HOST:PORT'} --command-config admin.properties"
    programs: list[tuple[str, Sequence[Topic], str | None]] = [
        ("api", topics.used_by_api(), None),
        ("processor", topics.used_by_worker(topics.jobs), kafka.processor_group),
        ("uploader", topics.used_by_worker([topics.results]), kafka.uploader_group),
        ("dead-letters", topics.used_by_dead_letters(), None),
    ]
    names = [topic.name for topic in topics.to_create()]
    yield _command(tool, f"{prefix}topics", _TOPIC_ADMINISTRATION, "--topic", names)
    for program, used, group in programs:
        for rights, same in itertools.groupby(sorted(used, key=_rights), key=_rights):
            yield _command(tool, f"{prefix}{program}", rights, "--topic", [topic.name for topic in same])
        if group is not None:
            yield _command(tool, f"{prefix}{program}", ["Read"], "--group", [group])


def _rights(topic: Topic) -> list[str]:
    return sorted(right.capitalize() for right in topic.rights)


def _command(tool: str, principal: str, operations: Iterable[str], kind: str, names: Iterable[str]) -> str:
    rights = " ".join(f"--operation {operation}" for operation in operations)
    resources = " ".join(f"{kind}\0{shlex.quote(name)}" for name in names)  # \0: no line ends there
    wrapped = textwrap.wrap(resources, _WIDTH, break_long_words=False, break_on_hyphens=False)
    head = f"--add --allow-principal {shlex.quote(f'User:{principal}')} {rights}"
    return " \\\n  ".join([tool, head, *wrapped]).replace("\0", " ")


if __name__ == "__main__":
    sys.exit(main())
