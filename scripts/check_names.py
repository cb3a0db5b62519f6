"""Check that no public name is defined twice: one name for one thing.

Public names are the functions and classes at module level without a leading underscore, in the folders of
``FOLDERS``. ``main`` is exempt. Exit status: 0 no findings, 1 findings, printed as ``file:line: …``.
"""

from __future__ import annotations

import ast
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from scripts.tracked import ROOT, tracked_files

FOLDERS = ("api", "processor", "uploader", "pipeline", "settings", "demo", "devstack", "deploy", "benchmarks")
EXEMPT = {"main"}


def public_definitions(text: str) -> dict[str, int]:
    """Return the public names that a module defines at its top level, with the line of each."""
    return {
        node.name: node.lineno
        for node in ast.parse(text).body
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
        and not node.name.startswith("_")
        and node.name not in EXEMPT
    }


def duplicate_names(modules: Iterable[tuple[Path, str]]) -> list[str]:
    """Return one sentence for each definition whose name another module defines as well, ordered by name."""
    places: dict[str, list[str]] = defaultdict(list)
    for path, text in modules:
        for name, line in public_definitions(text).items():
            places[name].append(f"{path}:{line}")
    return [
        f"{place}: {name} is defined in {len(defined)} modules"
        for name, defined in sorted(places.items())
        if len(defined) > 1
        for place in defined
    ]


def main() -> int:
    """Check every tracked module in ``FOLDERS`` and print the findings. Returns the exit status."""
    paths = [path for path in tracked_files() if path.suffix == ".py" and path.parts[0] in FOLDERS]
    findings = duplicate_names((path, (ROOT / path).read_text(encoding="utf-8")) for path in paths)
    sys.stdout.writelines(f"{finding}\n" for finding in findings)
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
