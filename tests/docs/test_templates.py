"""The hooks of pre-commit and the templates of GitHub refer to what exists."""

from __future__ import annotations

import re
import shlex
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts.tracked import ROOT

TEMPLATES = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))


def hooks() -> list[dict[str, Any]]:
    """Return the hooks of all repositories in the configuration."""
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    assert {repository["repo"] for repository in config["repos"]} == {"local"}  # nothing is downloaded
    return [hook for repository in config["repos"] for hook in repository["hooks"]]


@pytest.mark.parametrize("hook", hooks(), ids=lambda hook: str(hook["id"]))
def test_hook_runs_a_command_of_the_project(hook: dict[str, Any]) -> None:
    program, *arguments = shlex.split(hook["entry"])
    assert hook["language"] == "system"
    if program == "make":
        assert re.search(rf"^{arguments[0]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    elif program != "bash":
        assert (ROOT / program).is_file()
    if arguments[:1] == ["-m"]:
        assert find_spec(arguments[1]) is not None
    assert all((ROOT / word).exists() for word in arguments if word.startswith("tests/"))


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_issue_template_is_a_form(path: Path) -> None:
    form = yaml.safe_load(path.read_text())
    if path.name == "config.yml":
        assert form == {"blank_issues_enabled": True}
        return
    assert form.keys() >= {"name", "description", "body"}
    identifiers = [item["id"] for item in form["body"] if item["type"] != "markdown"]
    assert identifiers
    assert len(set(identifiers)) == len(identifiers)
