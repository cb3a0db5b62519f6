"""The Markdown pages of the repository: their headings, links and code."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from scripts.tracked import ROOT, tracked_files

_FENCE = re.compile(r"^(?P<indent> *)```(?P<info>[^\n`]*)\n(?P<code>.*?)^(?P=indent)```", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^()\s]+)\)")
_SPAN = re.compile(r"`([^`\n]+)`")


@dataclass(frozen=True)
class Fence:
    """A block of code: its language and attributes, and its text."""

    info: str
    code: str


@dataclass(frozen=True)
class MarkdownPage:
    """One page; ``path`` is relative to the root of the repository."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    @cached_property
    def text(self) -> str:
        return (ROOT / self.path).read_text(encoding="utf-8")

    @cached_property
    def prose(self) -> str:
        """The text without blocks of code."""
        return _FENCE.sub("", self.text)

    @property
    def fences(self) -> list[Fence]:
        return [Fence(match["info"].strip(), match["code"]) for match in _FENCE.finditer(self.text)]

    @property
    def links(self) -> list[str]:
        return _LINK.findall(_SPAN.sub("", self.prose))

    @property
    def spans(self) -> list[str]:
        """The inline code."""
        return _SPAN.findall(self.prose)

    @property
    def commands(self) -> Iterator[str]:
        """Yields the lines of shell blocks without their comments, and inline code."""
        for fence in self.fences:
            if fence.info.split(" ")[0] in ("sh", ""):
                yield from (line.split(" #")[0].strip() for line in fence.code.splitlines())
        yield from self.spans

    @property
    def anchors(self) -> set[str]:
        """The anchors of the headings, as GitHub derives them."""
        found: dict[str, int] = {}
        for heading in re.findall(r"^#+ +(.+?) *$", self.prose, re.MULTILINE):
            text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
            slug = re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
            count = found.get(slug, 0)
            found[slug] = count + 1
            if count:
                found[f"{slug}-{count}"] = 1
        return set(found)


def markdown_pages() -> list[MarkdownPage]:
    """Return every tracked page."""
    return [MarkdownPage(path) for path in tracked_files() if path.suffix == ".md"]
