"""Read docker-compose.yml as far as the checks need it; variables are interpolated as in Docker Compose."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

#: The file uses no other forms of Compose (``$VAR``, ``${VAR-…}``, ``${VAR:+…}``); a test checks that.
_OPEN = re.compile(r"\$(?:\$|\{(?P<name>\w+)(?P<operator>:-|:\?|(?=\})))")


class MissingVariableError(Exception):
    """A required variable (``${VAR:?…}``) without a value."""


class ComposeFile:
    """The services of a Compose file, as written."""

    def __init__(self, path: Path) -> None:
        self.text = path.read_text(encoding="utf-8")
        loaded: dict[str, Any] = yaml.safe_load(self.text)
        self.services: dict[str, dict[str, Any]] = loaded["services"]
        self.volumes: set[str] = set(loaded["volumes"])

    @property
    def built(self) -> dict[str, str]:
        """The services that are built here, each with its target."""
        return {name: service["build"]["target"] for name, service in self.services.items() if "build" in service}

    def environment(self, service: str, variables: Mapping[str, str]) -> dict[str, str]:
        """Return the environment of a container; a setting without a value comes from ``variables``, or is omitted."""
        written = self.services[service]["environment"].items()
        found = {name: variables.get(name) if value is None else str(value) for name, value in written}
        return {name: interpolate(value, variables) for name, value in found.items() if value is not None}


def interpolate(text: str, variables: Mapping[str, str]) -> str:
    """Replace variables. Raises MissingVariableError, and ValueError for forms that this reader does not support."""
    result, rest = "", text
    while match := _OPEN.search(rest):
        result += rest[: match.start()]
        if match["name"] is None:
            result, rest = result + "$", rest[match.end() :]
            continue
        end = _end_of_braces(rest, match.end())
        result += _value(match["name"], match["operator"], rest[match.end() : end], variables)
        rest = rest[end + 1 :]
    if "$" in rest:
        raise ValueError(f"unsupported form: {rest}")
    return result + rest


def variables_of(text: str) -> Iterator[tuple[str, str, str]]:
    """Yield the name, the operator and the argument of every ``${NAME…}``."""
    for match in _OPEN.finditer(text):
        if match["name"] is not None:
            yield match["name"], match["operator"], text[match.end() : _end_of_braces(text, match.end())]


def _value(name: str, operator: str, argument: str, variables: Mapping[str, str]) -> str:
    if variables.get(name):
        return variables[name]
    if operator == ":?":
        raise MissingVariableError(f"{name}: {argument}")
    return interpolate(argument, variables)


def _end_of_braces(text: str, start: int) -> int:
    """Return the position of the brace that closes the one open at ``start``."""
    depth = 1
    for position in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if depth == 0:
            return position
    raise ValueError(f"unclosed brace in {text}")
