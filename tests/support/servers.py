"""Real servers in tests: skipped, loudly, where they cannot be had; with REQUIRE_KAFKA=1 their absence is a failure."""

import os
from collections.abc import Callable
from typing import TypeVar

import pytest

from devstack.errors import ToolUnavailableError

T = TypeVar("T")


def require(tool: Callable[[], T]) -> T:
    """What `tool()` gives; skips the test when that cannot be had, or fails it where REQUIRE_KAFKA=1 (S3 included).

    Only a missing tool is forgiven. A server that was fetched and does not start raises, as any other fault.
    """
    try:
        return tool()
    except ToolUnavailableError as error:
        reason = str(error)
    if os.environ.get("REQUIRE_KAFKA") == "1":
        pytest.fail(f"REQUIRE_KAFKA=1, but {reason}")
    pytest.skip(reason)
