"""docker-compose.yml, read as far as the checks need it: merged by YAML, interpolated here as Compose does it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

#: What Compose offers besides (``$VAR``, ``${VAR-…}``, ``${VAR:+…}``) the file does not use; a test holds it to that.
_OPEN = re.compile(r"\$(?:\$|\{(?P<name>\w+)(?P<operator>:-|:\?|(?=\})))")


class MissingVariableError(Exception):
    """A ``${VAR:?…}`` without a value."""


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
        """What the service's container gets; a setting without a value is taken from ``variables``, or left out."""
        written = self.services[service]["environment"].items()
        found = {name: variables.get(name) if value is None else str(value) for name, value in written}
        return {name: interpolate(value, variables) for name, value in found.items() if value is not None}


def interpolate(text: str, variables: Mapping[str, str]) -> str:
    """Raises MissingVariableError, ValueError for what this reader does not know."""
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
        raise ValueError(f"not understood: {rest}")
    return result + rest


def variables_of(text: str) -> Iterator[tuple[str, str, str]]:
    """Every ``${NAME…}``: its name, its operator and what follows that."""
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
    """Where the brace that is open at ``start`` closes."""
    depth = 1
    for position in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if depth == 0:
            return position
    raise ValueError(f"an open brace in {text}")
