r"""Reads ``.env`` as Docker Compose does, and refuses what Compose and the services' former reader took differently.

The rules are those that Docker documents for Compose's ``.env`` files:

* Single quotes: the value is literal; ``\'`` is a quote. Double quotes: ``\\`` is a backslash, and ``\"`` a quote.
* ``${NAME}``, ``${NAME:-default}`` and ``${NAME-default}`` are replaced, except in single quotes. The environment comes
  before earlier lines of the file.
* A comment follows a blank and ``#``, or a closing quote and both.

Every value is on one line.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from settings.types import ConfigError

_LINE = re.compile(r"(?:export[ \t]+)?([A-Za-z_][A-Za-z0-9_]*)[ \t]*(?:=([ \t]*)(.*))?")
_QUOTED = re.compile(r"""(?:'((?:[^'\\]|\\.)*)'|"((?:[^"\\]|\\.)*)")[ \t]*(?:[ \t]#.*)?""")
_COMMENT = re.compile(r"[ \t]+#.*")
_REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?:(:?-)([^${}]*))?\}|\$")
_SINGLE_QUOTES = "put the value into single quotes"


def parse_env_file(text: str, environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables in ``text``; a later line overrides an earlier one.

    ``environment``: the variables of the process, for references such as ``${HOME}``. Raises ConfigError naming the
    line and the variable of everything that cannot be read, or that Docker Compose would read differently.
    """
    values: dict[str, str] = {}
    problems = []
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), start=1):
        stripped = line.strip(" \t")
        if not stripped or stripped.startswith("#"):
            continue
        match = _LINE.fullmatch(stripped)
        if match is None:
            problems.append(f"line {number}: must be NAME=value")
        elif match[3] is not None:  # A name alone has the value of the environment.
            try:
                values[match[1]] = _value(match[3], match[2], {**values, **environment})
            except ValueError as error:
                problems.append(f"line {number}, {match[1]}: {error}")
    if problems:
        raise ConfigError("; ".join(problems))
    return values


def _value(text: str, blank: str, variables: Mapping[str, str]) -> str:
    """Return the value of a line; ``blank`` precedes its text. Raises ValueError."""
    if text.startswith(("'", '"')):
        match = _QUOTED.fullmatch(text)
        if match is None:
            raise ValueError("the closing quote is missing, or something other than a comment follows it")
        return _unescape_literal(match[1]) if match[1] is not None else _unescape(match[2], variables)
    if text.startswith("#"):
        if not blank:
            raise ValueError(f'begins with a "#", which may start a comment: {_SINGLE_QUOTES}')
        return ""
    return _replace_references(_COMMENT.split(text, maxsplit=1)[0].rstrip(), variables)


def _unescape_literal(text: str) -> str:
    if "\\\\" in text:
        raise ValueError(
            "contains two backslashes in single quotes, which programs read differently: use double quotes"
        )
    return text.replace("\\'", "'")


def _unescape(text: str, variables: Mapping[str, str]) -> str:
    parts = re.split(r"(\\.)", text)
    if any(part not in ("\\\\", '\\"') for part in parts[1::2]):
        raise ValueError(f"contains a backslash that programs read differently: {_SINGLE_QUOTES}, or double it")
    return "".join(part[1] if index % 2 else _replace_references(part, variables) for index, part in enumerate(parts))


def _replace_references(text: str, variables: Mapping[str, str]) -> str:
    def replace(match: re.Match[str]) -> str:
        name, operator, default = match.groups()
        if name is None:
            raise ValueError(f'contains a "$" that Docker Compose would replace: {_SINGLE_QUOTES}')
        value = variables.get(name)
        return default if operator and (not value if operator == ":-" else value is None) else value or ""

    return _REFERENCE.sub(replace, text)
