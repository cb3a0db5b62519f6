"""``python -m deploy.make_topics [--wait SECONDS] [--align]``: makes the topics as the settings want them.

May be run at any time, and again: what is missing is created, partitions are added where ``KAFKA_PARTITIONS`` asks for
more, and with ``--align`` retention and ``min.insync.replicas`` are set anew where they differ. Nothing is taken away.
Prints a line for each topic. Exits with an ``ExitCode``.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

from config import ConfigError, load
from pipeline.errors import InfrastructureError, RefusedError
from pipeline.service.logs import configure_logging, get_logger
from pipeline.service.run import exit_code, operator_message
from pipeline.service.shutdown import ExitCode
from pipeline.topics import Topics
from pipeline.transport import Topic, Transport
from pipeline.transport.factory import open_transport
from pipeline.transport.kafka.transport import KafkaTransport

log = get_logger("make_topics")

#: Nothing is consumed here; the setting is there for the services that do.
_NO_CONSUMER_MS = 300_000
#: Pause before the broker is asked again, s.
_PAUSE = 1.0


def main(arguments: Sequence[str] | None = None) -> ExitCode:
    """Make them all, or as many as can be made in time; the next run makes the others."""
    options = _parser().parse_args(arguments)
    try:
        settings = load()
        configure_logging("make_topics", settings.log)
        transport = open_transport(settings, max_poll_interval_ms=_NO_CONSUMER_MS)
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return ExitCode.CONFIG
    try:
        deadline = time.monotonic() + options.wait
        for topic in Topics.from_settings(settings).to_create():
            done = _made(transport, topic, options.align, deadline)
            sys.stdout.write(f"{topic.name}: {done}\n")
    except InfrastructureError as error:
        log.error("topics_not_made", code=error.code, error=operator_message(error))
        return exit_code(error)
    finally:
        transport.close()
    return ExitCode.OK


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m deploy.make_topics",
        description="Make the topics as the settings want them. May be run again at any time; takes nothing away.",
    )
    parser.add_argument(
        "--wait", type=float, default=0.0, metavar="SECONDS", help="wait so long for the broker; default: try once"
    )
    parser.add_argument(
        "--align",
        action="store_true",
        help="set retention and min.insync.replicas of topics that exist as the settings say",
    )
    return parser


def _made(transport: Transport, topic: Topic, align: bool, deadline: float) -> str:
    """What was done. Raises InfrastructureError if the broker has not answered until ``deadline``."""
    while True:
        try:
            return _lay_out(transport, topic, align)
        except RefusedError:
            raise
        except InfrastructureError as error:
            if time.monotonic() + _PAUSE >= deadline:
                raise
            log.info("waiting_for_the_broker", code=error.code, error=error.message)
            time.sleep(_PAUSE)


def _lay_out(transport: Transport, topic: Topic, align: bool) -> str:
    if isinstance(transport, KafkaTransport):
        return transport.lay_out(topic, align=align)
    transport.ensure_topics([topic])
    return "as it should be"


if __name__ == "__main__":
    sys.exit(main())
