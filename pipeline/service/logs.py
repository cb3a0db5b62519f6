"""Structured logs: one event per line, with ``task_uuid`` wherever a task is in hand.

Libraries that log through the standard library come out in the same form.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import structlog

if TYPE_CHECKING:
    from config import LogSettings

#: Libraries whose INFO lines would drown the service's own.
_CHATTY = ("botocore", "boto3", "urllib3", "s3transfer", "uvicorn.access", "audio_separator", "numba")


def configure_logging(service: str, settings: LogSettings) -> None:
    """Send every log line of this process to standard error, as ``settings`` ask. Call once, at the start."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
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

    def add_service(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        # Not a context variable: those stay behind in the thread that set them.
        return {"service": service, **event}

    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            add_service,
            *_renderers(settings),
        ],
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(settings.level)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
    # It says the same ten times a second while a broker is away; the transport says it once per try.
    logging.getLogger("kafka").setLevel(logging.CRITICAL)
    logging.captureWarnings(True)


def _renderers(settings: LogSettings) -> list[structlog.typing.Processor]:
    if settings.format == "json":
        return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    # The renderer's own choice of traceback prints the values of local variables, secrets among them.
    plain = structlog.dev.plain_traceback
    return [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=plain)]


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """The logger of one module; pass ``__name__``."""
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return logger


@contextmanager
def log_context(**values: object) -> Iterator[None]:
    """Add ``values`` (``task_uuid`` above all) to every line that this thread logs inside the block."""
    with structlog.contextvars.bound_contextvars(**values):
        yield


def loggable_url(url: str) -> str:
    """A URL fit for logs and error messages: scheme, host and path; query, fragment and credentials are left out."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        host = f"[{host}]" if ":" in host else host  # an IPv6 address
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "<malformed URL>"
    return f"{parts.scheme}://{host}{port}{parts.path}"


def loggable_origin(url: str) -> str:
    """A webhook's URL fit for logs: scheme and host alone, since the path of such a URL often is its secret."""
    return "/".join(loggable_url(url).split("/", 3)[:3])
