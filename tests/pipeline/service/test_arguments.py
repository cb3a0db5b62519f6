"""The command lines of all programs: ``--help``, and wrong arguments."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PROGRAMS = (
    *("api", "processor", "uploader", "processor.models", "pipeline.dead_letters"),
    *("deploy.kafka_acls", "deploy.make_bucket", "deploy.make_topics", "deploy.probe"),
)


def run(folder: Path, module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a program in a folder without settings; one that started something would write there."""
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("module", PROGRAMS)
def test_help_names_the_page_of_the_settings_and_starts_nothing(tmp_path: Path, module: str) -> None:
    done = run(tmp_path, module, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: python -m {module} ")
    assert "docs/reference/settings.md" in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("module", PROGRAMS)
def test_unknown_arguments_are_refused(tmp_path: Path, module: str) -> None:
    done = run(tmp_path, module, "--no-such-option")
    assert (done.returncode, done.stdout) == (64, "")
    assert done.stderr.startswith(f"usage: python -m {module} ")
    assert list(tmp_path.iterdir()) == []


def test_wrong_arguments_of_a_subcommand_are_refused(tmp_path: Path) -> None:
    done = run(tmp_path, "pipeline.dead_letters", "show", "nonsense")
    assert done.returncode == 64
    assert "PARTITION/OFFSET" in done.stderr
