"""Read a Dockerfile as far as the checks need it: stages, instructions, flags, the exec form."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

_FLAG = re.compile(r"--([a-z-]+)=?(\S*)\s+")


@dataclass(frozen=True)
class Instruction:
    """One instruction, without comments and line continuations."""

    keyword: str
    flags: tuple[tuple[str, str], ...]
    arguments: str

    @property
    def exec_form(self) -> list[str] | None:
        """The words of the exec form ``["a", "b"]``; None for the shell form."""
        if not self.arguments.startswith("["):
            return None
        words: list[str] = json.loads(self.arguments)
        return words

    def flag(self, name: str) -> str | None:
        return dict(self.flags).get(name)


@dataclass
class Stage:
    """The instructions between two FROMs. ``base`` is an image or another stage."""

    name: str
    base: str
    instructions: list[Instruction] = field(default_factory=list)


class Dockerfile:
    """The stages of a Dockerfile, by name."""

    def __init__(self, text: str) -> None:
        self.arguments: dict[str, str] = {}
        """The ARGs before the first stage, which FROM may use, with their defaults."""
        self.stages: dict[str, Stage] = {}
        for instruction in _instructions(text):
            if instruction.keyword == "ARG" and not self.stages:
                name, _, default = instruction.arguments.partition("=")
                self.arguments[name] = default
            elif instruction.keyword == "FROM":
                base, _, name = instruction.arguments.partition(" AS ")
                stage = self.stages[name] = Stage(name, base)
            else:
                stage.instructions.append(instruction)

    @classmethod
    def read(cls, path: Path) -> Dockerfile:
        return cls(path.read_text(encoding="utf-8"))

    def base_images(self, given: Mapping[str, str]) -> set[str]:
        """Return the images that the stages are based on, with the values ``given`` for the arguments."""
        values = {**self.arguments, **given}
        bases = {stage.base for stage in self.stages.values()} - set(self.stages)
        return {re.sub(r"\$\{(\w+)\}", lambda found: values[found[1]], base) for base in bases}

    def lineage(self, name: str) -> list[Instruction]:
        """Return all instructions of the stage, after those of the stages that it is based on."""
        stage = self.stages[name]
        inherited = self.lineage(stage.base) if stage.base in self.stages else []
        return [*inherited, *stage.instructions]

    def all_of(self, name: str, keyword: str) -> list[Instruction]:
        return [instruction for instruction in self.lineage(name) if instruction.keyword == keyword]

    def environment(self, name: str) -> dict[str, str]:
        """Return the stage's ENV, as written."""
        pairs = (re.findall(r"(\w+)=(\S+)", env.arguments) for env in self.all_of(name, "ENV"))
        return {key: value for found in pairs for key, value in found}


def _instructions(text: str) -> Iterator[Instruction]:
    lines = (line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#"))
    for logical in re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines():
        keyword, rest = logical.split(maxsplit=1)
        flags = []
        while match := _FLAG.match(rest):
            flags.append((match[1], match[2]))
            rest = rest[match.end() :]
        yield Instruction(keyword, tuple(flags), rest.strip())
