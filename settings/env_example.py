"""Writes ``.env.example``: every setting with its description and default."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator
from typing import Any

from pydantic.fields import FieldInfo

from settings.types import PARSE_BYTES, PARSE_SECONDS, Section, format_bytes, format_seconds

_HEADER = """\
Settings of UVR-API. Copy this file to .env and remove the "#" before each setting that you change. Settings that \
stay commented out keep their defaults, which may change with an upgrade. The environment overrides .env, and an \
empty value means the default. Docker Compose reads this file in the same way: put a value with $, \\, quotes or \
blanks around it into single quotes.

Durations and sizes may have a unit: 500ms, 20s, 10m, 2h, 7d; 64KiB, 500MiB, 4GiB, 1MB. Without a unit, the \
description gives the unit.

Each secret can be read from a file instead, such as a mounted Docker or Kubernetes secret. Set the variable with \
_FILE after its name to the path of the file: {secret_files}."""


def render_env_example(sections: Iterable[type[Section]], secrets: Iterable[str]) -> str:
    """Return the text of ``.env.example``. Settings are commented out, except required ones.

    Advanced settings follow all others. ``secrets``: the names of secret settings, for the header.
    """
    header = _HEADER.format(secret_files=", ".join(f"{name}_FILE" for name in secrets))
    lines = ["\n#\n".join(_comment(paragraph) for paragraph in header.split("\n\n")), ""]
    lines += _section_lines(sections, advanced=False)
    lines += ["# ===== Advanced settings, which few deployments change =====", ""]
    lines += _section_lines(sections, advanced=True)
    return "\n".join(lines)


def default_text(field: FieldInfo) -> str:
    """Return the default of a setting as it is written in ``.env``; empty if there is none."""
    default: Any = field.default
    if default is None:
        return ""
    if isinstance(default, tuple):
        return ",".join(f"{part:g}" if isinstance(part, float) else str(part) for part in default)
    if PARSE_SECONDS in field.metadata:
        return format_seconds(default)
    if PARSE_BYTES in field.metadata:
        return format_bytes(default)
    return str(default).lower() if isinstance(default, bool) else str(default)


def is_marked(field: FieldInfo, mark: str) -> bool:
    """Return True if the setting is marked, as ``advanced`` or ``required``."""
    return isinstance(field.json_schema_extra, dict) and field.json_schema_extra.get(mark) is True


def _section_lines(sections: Iterable[type[Section]], *, advanced: bool) -> Iterator[str]:
    for section in sections:
        fields = [field for field in section.model_fields.values() if is_marked(field, "advanced") is advanced]
        if fields:
            yield f"# --- {section.title} ---\n"
        for field in fields:
            limits = {type(item).__name__: item for item in field.metadata}
            low, high = getattr(limits.get("Ge"), "ge", None), getattr(limits.get("Le"), "le", None)
            text = f"{field.description}" + (f" {low} to {high}." if low is not None and high is not None else "")
            start = "" if is_marked(field, "required") else "# "
            yield f"{_comment(text)}\n{start}{field.alias}={default_text(field)}\n"


def _comment(text: str) -> str:
    return textwrap.fill(
        text, 118, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False, break_long_words=False
    )
