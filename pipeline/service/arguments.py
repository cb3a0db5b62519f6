"""Command lines: every program of the project has ``--help``, and exits with 64 if its arguments are wrong."""

from __future__ import annotations

import argparse
import os
import sys
from typing import NoReturn

_SETTINGS = (
    "The settings come from environment variables and from the file .env in the current folder. "
    "docs/reference/settings.md explains each of them; python -m config lists them with their defaults."
)


class CommandParser(argparse.ArgumentParser):
    """The command line of ``python -m module``. ``--help`` names the page of the settings."""

    def __init__(self, module: str = "", **options: object) -> None:
        # Parsers of subcommands are created by argparse, with a name of their own.
        named = {"prog": f"python -m {module}", "epilog": _SETTINGS} if module else {}  # typos: allow
        super().__init__(**{**named, **options})  # type: ignore[arg-type]

    def error(self, message: str) -> NoReturn:
        """Print the usage and ``message`` to standard error, and exit with status 64."""
        self.print_usage(sys.stderr)
        self.exit(os.EX_USAGE, f"{self.prog}: error: {message}\n")


def parse_service_arguments(module: str, description: str) -> None:
    """Handle ``--help`` for a program without other arguments; any other argument ends it with status 64."""
    CommandParser(module, description=description).parse_args()
