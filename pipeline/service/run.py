"""What every service does around its work: settings, log, signals, and an exit status that says how it ended."""

from __future__ import annotations

import sys
from collections.abc import Callable

from config import ConfigError, Settings, load
from pipeline.errors import CancelledError, ErrorCode, InfrastructureError, PipelineError, RefusedError
from pipeline.service.logs import configure_logging, get_logger
from pipeline.service.shutdown import ExitCode, StopSignal

log = get_logger(__name__)


def run_service(name: str, serve: Callable[[Settings, StopSignal], None]) -> ExitCode:
    """Run ``serve`` until a signal comes. Call from the main thread, once.

    ``serve`` may raise ConfigError for settings that cannot be used, InfrastructureError for what is missing or
    refuses the service, and CancelledError if it was told to stop before it had begun.
    """
    try:
        settings = load()
        configure_logging(name, settings.log)
        stop = StopSignal(settings.worker.shutdown_grace)
        stop.install()
        serve(settings, stop)
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return ExitCode.CONFIG
    except InfrastructureError as error:
        log.error("cannot_run", code=error.code, error=operators_sentence(error))
        return exit_code(error)
    except CancelledError:
        pass
    except Exception:  # the boundary: a defect has a status of its own
        log.exception("defect")
        return ExitCode.INTERNAL
    log.info("stopped")
    return ExitCode.OK


def exit_code(error: PipelineError) -> ExitCode:
    """With what a process ends that cannot start, or go on, because of ``error``."""
    return ExitCode.REFUSED if error.code is ErrorCode.BROKER_REFUSED else ExitCode.UNAVAILABLE


def operators_sentence(error: PipelineError) -> str:
    """What to tell whoever runs the service; clients are told less."""
    return error.advice if isinstance(error, RefusedError) else error.message
