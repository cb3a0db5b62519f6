"""The name check finds public names that two modules define."""

from __future__ import annotations

from pathlib import Path

from scripts.check_names import duplicate_names, public_definitions
from scripts.tracked import ROOT, tracked_files


def test_public_definitions_are_those_at_module_level() -> None:
    text = "import os\nclass Name:\n    def method(self): ...\ndef _own(): ...\nasync def go(): ...\ndef main(): ...\n"
    assert public_definitions(text) == {"Name": 2, "go": 5}


def test_name_in_two_modules_is_reported_at_both_places() -> None:
    modules = [(Path("a.py"), "class Name: ...\n"), (Path("b.py"), "\ndef Name(): ...\n"), (Path("c.py"), "x = 1\n")]
    assert duplicate_names(modules) == [
        "a.py:1: Name is defined in 2 modules",
        "b.py:2: Name is defined in 2 modules",
    ]


def test_overloads_in_one_module_are_one_definition() -> None:
    assert duplicate_names([(Path("a.py"), "def name(): ...\ndef name(): ...\n")]) == []


def test_tracked_files_exist() -> None:
    files = list(tracked_files())
    assert Path("pyproject.toml") in files
    assert all((ROOT / path).is_file() for path in files)
    assert not any(path.parts[0] in (".venv", ".local") for path in files)
