"""Check the prose of the repository: plain professional English, without the idioms listed here.

    python -m scripts.check_prose             every tracked file
    python -m scripts.check_prose FILE…       these files

Two rules:

1. The docstring of a function opens with a verb ("Return …", "Separates …"), not with a clause ("What …", "Whether …").
2. Docstrings, comments, names of tests, Markdown, shell messages and YAML contain none of ``IDIOMS``.

A line that contains ``prose: allow`` is not checked. Each finding is printed as ``file:line: …``. Exit status: 0 no
findings, 1 findings.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from scripts.tracked import ROOT, tracked_files

ALLOW = "prose: allow"

CLAUSE = re.compile(
    r"(?:what|where|whether|how|who|whoever|whom|when|why|of|as|for|that|those|these|in which|with what|by how)\b",
    re.IGNORECASE,
)

#: Pattern of the idiom, and the advice that is printed with it.
IDIOMS = {
    r"whoever|nobody|no one|somebody|anybody": "name the role: the caller, the client, the operator",
    r"tells?|told|says?|said": "use report, state, name, show, return or log",
    r"hears?|heard": "use receive or notice",
    r"obeys?|obeyed": "use follow or respect",
    r"dismiss(?:e[sd]|al|als|ing)?": "use cancel, stop or discard",
    r"as ever": "use unchanged or as before",
    r"ha(?:s|ve) a say": "use affects or overlaps",
    r"in vain": "use without success",
    r"riddles?": "name the fault: invalid data, a protocol error",
    r"trifles?": "name the thing: a small record, a probe",
    r"by turns": "use alternately",
    r"his (?:own )?(?:stems?|wait|end)|hands? over his": "a program is not a person",
    r"left lying|lies? about": "use left behind",
    r"at no other's": "use plain words",
    r"comes? of it": "use the result",
    r"what is left of": "use the rest, or the remaining",
}
# One group for each idiom, so that the group that matched identifies the advice.
_IDIOM = re.compile(r"\b(?:" + "|".join(f"({idiom})" for idiom in IDIOMS).replace(" ", r"\s+") + r")\b", re.IGNORECASE)
_ADVICE = tuple(IDIOMS.values())

_TEXT_SUFFIXES = {".md", ".yml", ".yaml", ".toml", ".example"}
_TEXT_NAMES = {"Makefile", "Dockerfile"}
_SHELL_SUFFIXES = {".sh"}
_SHELL_NAMES = {"run"}
# A comment, or a quoted string with the messages of a script. Single quotes hold code as often as prose.
_SHELL_PROSE = re.compile(r'(?:^|\s)#.*|"(?:[^"\\]|\\.)*"', re.MULTILINE)
_FENCE = re.compile(r"^(```|~~~).*?^\1[^\n]*$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """A place where the prose breaks a rule."""

    path: Path
    line: int
    problem: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.problem}"


def check_text(path: Path, text: str) -> list[Finding]:
    """Return the findings of one file, ordered by line; none for a kind of file that holds no prose."""
    lines = text.splitlines()
    found = {Finding(path, line, problem) for line, problem in _problems(path, text) if ALLOW not in lines[line - 1]}
    return sorted(found)


def _problems(path: Path, text: str) -> Iterator[tuple[int, str]]:
    if path.suffix == ".py":
        yield from _python_problems(path, text)
    elif path.suffix in _SHELL_SUFFIXES or path.name in _SHELL_NAMES:
        for part in _SHELL_PROSE.finditer(text):
            yield from _idioms(part[0], _line(text, part.start()))
    elif path.suffix in _TEXT_SUFFIXES or path.name in _TEXT_NAMES:
        # Code blocks keep their line breaks, so that line numbers stay right.
        prose = _FENCE.sub(lambda fence: "\n" * fence[0].count("\n"), text) if path.suffix == ".md" else text
        yield from _idioms(prose, 1)


def _python_problems(path: Path, text: str) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        docstring = ast.get_docstring(node, clean=False)
        line = node.body[0].lineno if docstring else 1
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            if node.name.startswith("test_"):
                yield from _idioms(node.name.replace("_", " "), node.lineno)
            if opener := CLAUSE.match((docstring or "").lstrip()):
                yield line, f'the docstring opens with "{opener[0]}": open with a verb, such as Return or Yield'
        yield from _idioms(docstring or "", line)
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield from _idioms(token.string, token.start[0])


def _idioms(prose: str, first_line: int) -> Iterator[tuple[int, str]]:
    for match in _IDIOM.finditer(prose):
        words = " ".join(match[0].split())
        yield first_line + _line(prose, match.start()) - 1, f'"{words}": {_ADVICE[(match.lastindex or 1) - 1]}'


def _line(text: str, offset: int) -> int:
    return text.count("\n", 0, offset) + 1


def main(arguments: Sequence[str]) -> int:
    """Check the files named, or every tracked file, and print the findings. Returns the exit status."""
    paths = [Path(argument) for argument in arguments] or list(tracked_files())
    findings = []
    for path in paths:
        try:
            text = (ROOT / path).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # audio and other binary data
        findings += check_text(path, text)
    sys.stdout.writelines(f"{finding}\n" for finding in findings)
    if findings:
        sys.stdout.write(f"{len(findings)} findings\n")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
