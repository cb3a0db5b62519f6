"""Test that every locked package has a hash, and that the installers require it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.deploy.conftest import ROOT

LOCKS = sorted((ROOT / "requirements").glob("*.lock"))
REQUIREMENT = re.compile(r"[a-z0-9-]+(\[[a-z0-9,-]+\])?==[^ ]+( ; [^\\]+)?( --hash=sha256:[0-9a-f]{64})+")


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: str(lock.stem))
def test_every_package_is_pinned_with_its_hashes(lock: Path) -> None:
    text = re.sub(r"\\\n\s*", "", lock.read_text(encoding="utf-8"))
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    assert lines
    assert [line for line in lines if not REQUIREMENT.fullmatch(line)] == []


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: str(lock.stem))
def test_lock_names_no_index_and_no_path_of_a_machine(lock: Path) -> None:
    text = lock.read_text(encoding="utf-8")
    assert not re.findall(r"\S*://\S*|--\w*index\S*|--find-links\S*|\s/\S+", text)
    named = set(re.findall(r"-[cr] (\S+)", text))
    sources = {path.name for path in (ROOT / "requirements").glob("*.in")}
    assert named <= sources | {"versions.txt", "torch.in", "torch-cpu.in"}


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: str(lock.stem))
def test_every_python_gets_the_same_version(lock: Path) -> None:
    """Only one version of a package is tested."""
    names = re.findall(r"^([a-z0-9-]+)(?:\[\S+\])?==", lock.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(names) == sorted(set(names))


def test_every_installation_of_a_lock_requires_hashes() -> None:
    files = [ROOT / "start_local.sh", ROOT / "Makefile", ROOT / "Dockerfile", ROOT / "devstack" / "tools" / "java.py"]
    for file in files:
        text = re.sub(r"\\\n\s*", "", file.read_text(encoding="utf-8"))
        installs = [line for line in text.splitlines() if re.search(r"pip install |\"--only-binary\"", line)]
        assert installs, file
        assert [line for line in installs if line.count("pip install") > line.count("--require-hashes")] == []
