"""python -m benchmarks.download.fetchers.engine URL FILE …: this project's engine, called as by the services."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import structlog

from benchmarks.download.fetchers.figures import reported_figures
from config import DownloadSettings
from pipeline.cancellation import CancelToken
from pipeline.download import DownloadLimits, UrlGuard, download
from pipeline.download.checksum import Checksum
from pipeline.errors import PipelineError

_DAY = 86400.0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("target", type=Path)
    parser.add_argument("--connections", type=int, default=DownloadSettings().connections)
    parser.add_argument("--stall-timeout", type=float, default=30.0)
    parser.add_argument("--total-timeout", type=float, default=_DAY)
    parser.add_argument("--max-bytes", type=int, default=2**40)
    parser.add_argument("--sha256", default="")
    parser.add_argument("--resume", action="store_true")
    return parser.parse_args()


def fetch_with_engine(arguments: argparse.Namespace) -> None:
    """Download as the services do. Raises PipelineError."""
    download(
        arguments.url,
        arguments.target,
        guard=UrlGuard(allow_private=True),
        limits=DownloadLimits(
            max_bytes=arguments.max_bytes,
            connect_timeout=arguments.stall_timeout,
            stall_timeout=arguments.stall_timeout,
            total_timeout=arguments.total_timeout,
            max_connections=arguments.connections,
        ),
        cancel=CancelToken(),
        checksum=Checksum("sha256", arguments.sha256) if arguments.sha256 else None,
        resume=arguments.resume,
    )


def main() -> None:
    """Download one file with the engine and report its figures."""
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    arguments = _arguments()
    try:
        with reported_figures() as figures:
            try:
                fetch_with_engine(arguments)
            except PipelineError as error:
                figures["error"] = error.code.value
                raise
    except PipelineError:
        sys.exit(1)


if __name__ == "__main__":
    main()
