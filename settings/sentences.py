"""Sentences about settings that cannot be used. They name the variable and what is expected, never the value."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

#: What is expected, by pydantic's type of error, with the values of its context.
_EXPECTED = {
    "bool_parsing": "true or false",
    "enum": "{expected}",
    "finite_number": "a finite number",
    "float_parsing": "a number",
    "greater_than": "more than {gt}",
    "greater_than_equal": "at least {ge}",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "int_parsing_size": "a smaller number",
    "less_than_equal": "at most {le}",
    "literal_error": "{expected}",
}


def config_sentences(error: ValidationError) -> Iterator[str]:
    """Yield one sentence for each wrong variable, each once."""
    errors = error.errors(include_input=False, include_url=False)
    yield from dict.fromkeys(_sentence(item) for item in errors)


def _sentence(item: Mapping[str, Any]) -> str:
    # The first part of the location is the section; those after the variable are positions in a list.
    _, *variable = item["loc"]
    expected = _EXPECTED.get(item["type"])
    if expected is None:
        problem = item["msg"].removeprefix("Value error, ")
    else:
        subject = "each part must be" if len(variable) > 1 else "must be"
        problem = f"{subject} {expected.format(**item.get('ctx', {})).replace(chr(39), '')}"
    return f"{variable[0]}: {problem}" if variable else problem
