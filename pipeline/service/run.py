"""The main function of every service: settings, logs, signals, and the exit status."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from config import ConfigError, Settings, load, unknown_variables
from pipeline.errors import CancelledError, ErrorCode, InfrastructureError, PipelineError, RefusedError
from pipeline.service.logs import configure_logging, get_logger
from pipeline.service.shutdown import ExitCode, StopSignal

log = get_logger(__name__)


def run_service(name: str, serve: Callable[[Settings, StopSignal], None]) -> ExitCode:
    """Run ``serve`` until a signal arrives, and return the exit status. Call once, from the main thread.

    ``serve`` may raise ConfigError for unusable settings, InfrastructureError for a dependency that is missing or
    rejects the service, and CancelledError if the shutdown began during its start-up.
    """
    os.umask(0o077)  # queue, stems and working files contain clients' URLs and songs
    try:
        settings = load_settings(name)
        stop = StopSignal(settings.worker.shutdown_grace)
        stop.install()
        serve(settings, stop)
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return ExitCode.CONFIG
    except InfrastructureError as error:
        log.error("startup_failed", code=error.code, error=operator_message(error))
        return exit_code(error)
    except CancelledError:
        pass
    except KeyboardInterrupt:  # before the signals have their handlers
        return ExitCode.KILLED
    except Exception:  # the boundary: a defect has its own exit status
        log.exception("unexpected_error")
        return ExitCode.INTERNAL
    log.info("stopped")
    return ExitCode.OK


def load_settings(name: str) -> Settings:
    """Read the settings, configure the log of the process ``name``, and log the misspelt ones.

    Raises ConfigError.
    """
    settings = load()
    configure_logging(name, settings.log)
    for unknown in unknown_variables():
        hint = {"did_you_mean": unknown.nearest} if unknown.nearest else {}
        log.warning("unknown_variable", name=unknown.name, place=unknown.place, **hint)
    return settings


def exit_code(error: PipelineError) -> ExitCode:
    """Return the exit status of a process that ``error`` keeps from starting or going on."""
    return ExitCode.REFUSED if error.code is ErrorCode.BROKER_REFUSED else ExitCode.UNAVAILABLE


def operator_message(error: PipelineError) -> str:
    """Return the sentence for the operator of the service, which may contain more than clients may see."""
    return error.advice if isinstance(error, RefusedError) else error.message
