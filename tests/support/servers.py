"""Real servers in tests: without one a test is skipped; with REQUIRE_KAFKA=1 it fails."""

import os
from collections.abc import Callable
from typing import TypeVar

import pytest

from devstack.errors import ToolUnavailableError

T = TypeVar("T")


def require(tool: Callable[[], T]) -> T:
    """Return `tool()`; if the tool is missing, skip the test, or fail it with REQUIRE_KAFKA=1 (for S3 as well).

    Only a missing tool skips: an installed server that does not start raises its error.
    """
    try:
        return tool()
    except ToolUnavailableError as error:
        reason = str(error)
    if os.environ.get("REQUIRE_KAFKA") == "1":
        pytest.fail(f"REQUIRE_KAFKA=1, but {reason}")
    pytest.skip(reason)
