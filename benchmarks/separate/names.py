"""Names of the contenders on command lines and in results."""

from __future__ import annotations

from typing import Final

ENGINE: Final = "engine"
UPSTREAM: Final = "upstream"
COMMAND: Final = "command"
#: The engine with the default threads of the libraries.
DEFAULT_THREADS: Final = "default threads"
#: The engine with ONNX Runtime's parallel execution of operators.
PARALLEL_OPERATORS: Final = "parallel operators"
