"""Settings of the log."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from settings.types import Section


class LogFormat(StrEnum):
    """Format of log lines: ``json`` for programs, ``console`` for people; one event per line in both."""

    JSON = "json"
    CONSOLE = "console"


class LogSettings(Section):
    """Level and format of log lines."""

    title = "Logging"

    level: str = Field(
        "INFO",
        pattern="^(DEBUG|INFO|WARNING|ERROR)$",
        alias="LOG_LEVEL",
        description="Lowest level that is logged: DEBUG, INFO, WARNING or ERROR.",
    )
    format: LogFormat = Field(LogFormat.JSON, alias="LOG_FORMAT", description="Format of log lines: json or console.")
