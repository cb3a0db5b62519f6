"""Settings of the log."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from settings.types import UPPER_CASE, Choice, Section


class LogFormat(Choice):
    """Format of log lines: ``json`` for programs, ``console`` for people; one event per line in both."""

    JSON = "json"
    CONSOLE = "console"


class LogSettings(Section):
    """Level and format of log lines."""

    title = "Logging"

    level: Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR"], UPPER_CASE] = Field(
        "INFO",
        alias="LOG_LEVEL",
        description="Lowest level that is logged: DEBUG, INFO, WARNING or ERROR.",
    )
    format: LogFormat | None = Field(
        None,
        alias="LOG_FORMAT",
        description="Format of log lines: json or console. Unset: console on a terminal, otherwise json. Colours "
        "follow NO_COLOR and FORCE_COLOR.",
    )
