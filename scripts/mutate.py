"""Run the tests of the core against mutants of it: ``python -m scripts.mutate [--minutes N] [GROUP …]``.

A mutant is a copy of the code with one small fault. A mutant that no test notices has survived: either it is equivalent
to the code, or a test is missing. mutmut makes the mutants, in a copy of the checkout for each group of files, and runs
the tests that reach the changed function. Results are kept in the copies: a later run goes on where the last one ended,
and repeats only what changed. ``docs/explanation/mutation-testing.md`` lists the survivors and why they are accepted.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from scripts.tracked import ROOT, tracked_files

#: Exit statuses of a mutant's tests, see mutmut.
_SURVIVED: Final = 0
_NO_TESTS: Final = 33
_TIMED_OUT: Final = frozenset({-24, 24, 36, 152, 255})
#: Makes property tests end at the first counterexample: a smaller one takes minutes to find and is not needed here.
_NO_SHRINKING: Final = """
from hypothesis import Phase, settings

settings.register_profile("mutants", phases=(Phase.explicit, Phase.generate), database=None)
settings.load_profile("mutants")
"""
#: Calls whose arguments are for people: their texts are not part of the behaviour.
_NOT_MUTATED: Final = (r"\blog\.\w+\(", r"\bmetrics\.")


@dataclass(frozen=True, slots=True)
class Group:
    """Files and the tests that have to notice their mutants."""

    files: tuple[str, ...]
    tests: tuple[str, ...]


GROUPS: Final[Mapping[str, Group]] = {
    "processor": Group(
        ("processor/disk_budget.py", "processor/download_lanes.py", "processor/engine/oom_fallback.py"),
        (
            *("tests/processor/test_disk_budget.py", "tests/processor/test_download_lanes.py"),
            "tests/processor/engine/test_oom_fallback.py",
        ),
    ),
    "offsets": Group(("pipeline/transport/offsets.py",), ("tests/pipeline/transport/test_offsets.py",)),
    "storage": Group(
        ("pipeline/storage/local/*.py",), ("tests/pipeline/storage/test_local.py", "tests/conformance/storage")
    ),
    "download": Group(
        ("pipeline/download/journal.py", "pipeline/download/resume.py", "pipeline/download/part_file.py"),
        (
            *("tests/pipeline/download/test_journal.py", "tests/pipeline/download/test_resume.py"),
            "tests/pipeline/download/test_single_stream.py",
        ),
    ),
    "uploader": Group(("uploader/publish.py", "uploader/outcome_store.py"), ("tests/uploader",)),
    "consuming": Group(("pipeline/consuming/*.py",), ("tests/pipeline/consuming", "tests/conformance/transport")),
}


def prepare(name: str) -> Path:
    """Copy the checkout for a group, with mutmut's settings, and return the folder. Its survivors are tested again."""
    folder = ROOT / ".local" / "mutate" / name
    tracked = list(tracked_files())
    for path in tracked:
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / path, target)
    environment = folder / ".venv"
    if not environment.is_symlink():
        environment.symlink_to(sys.prefix)
    with (folder / "pyproject.toml").open("a", encoding="utf-8") as settings:
        settings.write(mutmut_settings(GROUPS[name], sorted({path.parts[0] for path in tracked})))
    with (folder / "tests" / "conftest.py").open("a", encoding="utf-8") as conftest:
        conftest.write(_NO_SHRINKING)
    for meta in (folder / "mutants").rglob("*.meta"):
        state = json.loads(meta.read_text(encoding="utf-8"))
        statuses = state["exit_code_by_key"]
        state["exit_code_by_key"] = {
            mutant: None if _survived(status) else status for mutant, status in statuses.items()
        }
        meta.write_text(json.dumps(state), encoding="utf-8")
    return folder


def _survived(status: int | None) -> bool:
    return status in (_SURVIVED, _NO_TESTS)


def mutmut_settings(group: Group, content: list[str]) -> str:
    """Return mutmut's section of pyproject.toml. ``content``: the files and folders at the root of the checkout."""
    sources = sorted({file.partition("/")[0] for file in group.files})
    values = {
        "source_paths": sources,
        "only_mutate": list(group.files),
        "do_not_mutate_patterns": list(_NOT_MUTATED),
        "also_copy": [name for name in content if name not in {*sources, "tests", "pyproject.toml"}],
        "pytest_add_cli_args": ["-p", "no:randomly", "-p", "no:cacheprovider", "-n", "0"],
        "pytest_add_cli_args_test_selection": ["-m", "not kafka and not s3 and not slow", *group.tests],
        # Threads and sockets of the tests must not be in the process that the mutants are forked from.
        "process_isolation": "forkserver",
        "timeout_multiplier": 6.0,
        "timeout_constant": 5.0,
        "use_git_change_detection": False,
    }
    lines = "".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items())
    return f"\n[tool.mutmut]\n{lines}"


def run(folder: Path, seconds: float) -> None:
    """Test the mutants of the copy in ``folder`` for at most ``seconds``, one at a time and with low priority."""
    environment = {**os.environ, "UVR_TOOLS_DIR": str(ROOT / ".local" / "tools"), "OMP_NUM_THREADS": "1"}
    command = ["nice", "-n", "15", "timeout", "--signal=INT", "--kill-after=30", f"{seconds:.0f}"]
    command += [sys.executable, "-m", "mutmut", "run", "--max-children", "1"]
    with (folder / "mutate.log").open("w", encoding="utf-8") as log:
        subprocess.run(command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT, check=False)


def results(folder: Path) -> Iterator[tuple[str, int | None]]:
    """Yield each mutant of the copy with the exit status of its tests; None: it was not tested yet."""
    for meta in sorted((folder / "mutants").rglob("*.meta")):
        yield from json.loads(meta.read_text(encoding="utf-8"))["exit_code_by_key"].items()


def wording_only(folder: Path) -> set[str]:
    """Return the mutants that differ from the code in the wording of a sentence only, which is for people."""
    found = set()
    for meta in (folder / "mutants").rglob("*.meta"):
        tree = ast.parse(meta.with_suffix("").read_text(encoding="utf-8"))
        functions = {
            node.name: _without_sentences(node) for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)
        }
        for mutant in json.loads(meta.read_text(encoding="utf-8"))["exit_code_by_key"]:
            name = mutant.rpartition(".")[2]
            if functions[name] == functions[f"{name.rpartition('__mutmut_')[0]}__mutmut_orig"]:
                found.add(mutant)
    return found


def _without_sentences(function: ast.FunctionDef) -> str:
    for node in ast.walk(function):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            node.value = ""
    return "".join(ast.dump(statement) for statement in (function.args, *function.body))


def summary(name: str, found: Mapping[str, int | None]) -> str:
    """Return a line of figures on a group, and its survivors."""
    counts = Counter(found.values())
    survivors = [mutant for mutant, status in found.items() if _survived(status)]
    tested = len(found) - counts[None]
    killed = tested - len(survivors)
    share = f"{killed / tested:.0%}" if tested else "-"
    late = sum(counts[status] for status in _TIMED_OUT)
    first = (
        f"{name}: {killed} of {tested} killed ({share}; {late} by a timeout), {counts[None]} of {len(found)} untested"
    )
    return "\n".join([first, *(f"  {mutant}" for mutant in survivors)])


def main() -> None:
    """Run the groups one after another within the time, and print what survived."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("groups", nargs="*", choices=[[], *GROUPS], help="default: all of them")
    parser.add_argument("--minutes", type=float, default=60.0, help="time limit (default: %(default)s)")
    arguments = parser.parse_args()
    end = time.monotonic() + 60 * arguments.minutes
    for name in arguments.groups or GROUPS:
        folder = prepare(name)
        if (left := end - time.monotonic()) > 0:
            run(folder, left)
        wording = wording_only(folder)
        sys.stdout.write(summary(name, {key: value for key, value in results(folder) if key not in wording}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
