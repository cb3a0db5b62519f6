"""Test the settings and the figures of the mutation run, without running it."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from scripts.mutate import GROUPS, mutmut_settings, results, summary, wording_only
from scripts.tracked import ROOT

CODE = """
def x_pay__mutmut_orig(amount):
    raise ValueError("no such amount", amount + 1)

def x_pay__mutmut_1(amount):
    raise ValueError("XXno such amountXX", amount + 1)

def x_pay__mutmut_2(amount):
    raise ValueError("no such amount", amount - 1)

def x_pay__mutmut_3(amount):
    raise ValueError("no such amount", amount + 2)
"""


@pytest.mark.parametrize("name", GROUPS)
def test_files_and_tests_of_a_group_exist(name: str) -> None:
    group = GROUPS[name]
    assert all(list(ROOT.glob(pattern)) for pattern in group.files)
    assert all((ROOT / path).exists() for path in group.tests)
    settings = tomllib.loads(mutmut_settings(group, ["config.py", "processor", "tests"]))["tool"]["mutmut"]
    assert settings["only_mutate"] == list(group.files)
    assert set(settings["pytest_add_cli_args_test_selection"]) >= set(group.tests)


def test_survivors_are_counted_without_mutants_of_wording(tmp_path: Path) -> None:
    module = tmp_path / "mutants" / "money.py"
    module.parent.mkdir()
    module.write_text(CODE, encoding="utf-8")
    statuses = {"money.x_pay__mutmut_1": 0, "money.x_pay__mutmut_2": 1, "money.x_pay__mutmut_3": 0}
    module.with_name("money.py.meta").write_text(json.dumps({"exit_code_by_key": statuses}), encoding="utf-8")
    assert wording_only(tmp_path) == {"money.x_pay__mutmut_1"}
    counted = {mutant: status for mutant, status in results(tmp_path) if mutant not in wording_only(tmp_path)}
    first, survivor = summary("money", counted).splitlines()
    assert first.startswith("money: 1 of 2 killed (50%")
    assert survivor.strip() == "money.x_pay__mutmut_3"
