"""Creates the topics of the settings: ``python -m deploy.make_topics [--wait SECONDS] [--align]``.

The command can be run again at any time: it creates missing topics, adds partitions if ``KAFKA_PARTITIONS`` is larger
than before, and with ``--align`` updates retention and ``min.insync.replicas``. It never removes anything. It prints a
line for each topic and exits with an ``ExitCode``.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from config import ConfigError
from pipeline.errors import InfrastructureError, RefusedError
from pipeline.service.arguments import CommandParser
from pipeline.service.logs import get_logger
from pipeline.service.run import exit_code, load_settings, operator_message
from pipeline.service.shutdown import ExitCode
from pipeline.topics import Topics
from pipeline.transport import Topic, Transport
from pipeline.transport.factory import open_transport
from pipeline.transport.kafka.transport import KafkaTransport

log = get_logger("make_topics")

#: Required by the transport, but not used: this command consumes nothing.
_NO_CONSUMER_MS = 300_000
#: Pause between two attempts, s.
_PAUSE = 1.0


def main(arguments: Sequence[str] | None = None) -> ExitCode:
    """Create all topics, or as many as possible in time; the next run creates the others."""
    parser = CommandParser(
        "deploy.make_topics",
        description="Create the topics of the settings. Can be run again at any time; removes nothing.",
    )
    parser.add_argument(
        "--wait", type=float, default=0.0, metavar="SECONDS", help="longest wait for the broker; default: try once"
    )
    parser.add_argument(
        "--align", action="store_true", help="update retention and min.insync.replicas of existing topics"
    )
    options = parser.parse_args(arguments)
    try:
        settings = load_settings("make_topics")
        transport = open_transport(settings, max_poll_interval_ms=_NO_CONSUMER_MS)
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return ExitCode.CONFIG
    try:
        deadline = time.monotonic() + options.wait
        for topic in Topics.from_settings(settings).to_create():
            result = _create(transport, topic, options.align, deadline)
            sys.stdout.write(f"{topic.name}: {result}\n")
    except InfrastructureError as error:
        log.error("topic_creation_failed", code=error.code, error=operator_message(error))
        return exit_code(error)
    finally:
        transport.close()
    return ExitCode.OK


def _create(transport: Transport, topic: Topic, align: bool, deadline: float) -> str:
    """Create or update the topic and return what was done.

    Raises InfrastructureError if the broker does not answer until ``deadline``, RefusedError at once.
    """
    while True:
        try:
            if isinstance(transport, KafkaTransport):
                return transport.reconcile_topic(topic, align=align)
            transport.ensure_topics([topic])
            return "up to date"
        except RefusedError:
            raise
        except InfrastructureError as error:
            if time.monotonic() + _PAUSE >= deadline:
                raise
            log.info("waiting_for_broker", code=error.code, error=error.message)
            time.sleep(_PAUSE)


if __name__ == "__main__":
    sys.exit(main())
