"""Structured logs: one event per line, with ``task_uuid`` while a task is in work.

Log lines of libraries that use the standard library's ``logging`` get the same format.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import structlog

if TYPE_CHECKING:
    from config import LogSettings

#: Libraries whose INFO lines would outnumber those of the service.
_VERBOSE_LIBRARIES = ("botocore", "boto3", "urllib3", "s3transfer", "uvicorn.access", "audio_separator", "numba")

#: Longest value of a log line, characters: some come from clients, such as paths. Tracebacks are not cut.
MAX_VALUE = 1000


def configure_logging(service: str, settings: LogSettings) -> None:
    """Send all log lines of this process to standard error in the configured format. Call once, at the start."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        _cut_values,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )

    renderers: list[structlog.typing.Processor]
    if (settings.format or ("console" if sys.stderr.isatty() else "json")) == "json":
        renderers = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    else:
        # The renderer's default traceback prints the values of local variables, which may be secrets.
        plain = structlog.dev.plain_traceback
        renderers = [structlog.dev.ConsoleRenderer(colors=_wants_colours(), exception_formatter=plain)]
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            # A context variable would not do: other threads do not inherit it.
            lambda _logger, _method, event: {"service": service, **event},
            *renderers,
        ],
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(settings.level)
    for name in _VERBOSE_LIBRARIES:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
    # kafka-python repeats an error ten times a second during an outage; the transport logs it once per try.
    logging.getLogger("kafka").setLevel(logging.CRITICAL)
    logging.captureWarnings(True)


def _wants_colours() -> bool:
    """Return whether to colour the log: on a terminal, unless NO_COLOR is set; with FORCE_COLOR everywhere."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


def _cut_values(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    for name, value in event.items():
        if isinstance(value, str) and len(value) > MAX_VALUE:
            event[name] = f"{value[:MAX_VALUE]}… ({len(value)} characters)"
    return event


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """Return the logger of a module; pass ``__name__``."""
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return logger


@contextmanager
def log_context(**values: object) -> Iterator[None]:
    """Add ``values``, such as ``task_uuid``, to every line that this thread logs inside the block."""
    with structlog.contextvars.bound_contextvars(**values):
        yield


def loggable_url(url: str) -> str:
    """Reduce a URL to scheme, host and path for logs and error messages; drops query, fragment and credentials."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        host = f"[{host}]" if ":" in host else host  # an IPv6 address
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "<malformed URL>"
    return f"{parts.scheme}://{host}{port}{parts.path}"


def loggable_origin(url: str) -> str:
    """Reduce a webhook's URL to scheme and host for logs, since its path is often a secret."""
    return "/".join(loggable_url(url).split("/", 3)[:3])
