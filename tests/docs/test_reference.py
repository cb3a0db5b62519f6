"""The generated pages of the reference match the code."""

from __future__ import annotations

import pytest

from pipeline.errors import ErrorCode, ErrorKind
from pipeline.messages import TaskState
from scripts.reference import FOLDER, pages
from scripts.reference_texts import CODES, KINDS, STATES


@pytest.mark.parametrize("name", ["settings.md", "errors.md", "tasks-and-events.md", "metrics.md"])
def test_page_matches_the_code(name: str) -> None:
    assert (FOLDER / name).read_text(encoding="utf-8") == pages()[name], "run `make reference`"


def test_every_code_kind_and_state_has_a_text() -> None:
    assert set(CODES) == set(ErrorCode)
    assert set(KINDS) == set(ErrorKind)
    assert set(STATES) == set(TaskState)
    assert {kind for kind, _ in CODES.values()} <= {kind.value for kind in ErrorKind}
