"""How ONNX Runtime's sessions share the cores: they keep to no variable, and have to be told one by one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import onnxruntime

from processor.cores import threads


@contextmanager
def shared_sessions() -> Iterator[None]:
    """While it lasts, sessions are made such that they keep to our cores, and sleep while they wait."""
    stock = onnxruntime.SessionOptions

    def options() -> Any:
        made = stock()
        # Left to itself it counts the machine's cores, of which a container may have few, and ties a thread to each.
        made.intra_op_num_threads = threads()
        made.add_session_config_entry("session.intra_op.allow_spinning", "0")
        return made

    onnxruntime.SessionOptions = options
    try:
        yield
    finally:
        onnxruntime.SessionOptions = stock
