"""How many threads a network on the CPU works with, where several children share the cores.

torch, and what else keeps to OpenMP, goes by ``OMP_NUM_THREADS``, which the parent sets; ONNX Runtime has threads of
its own, as many as there are cores unless each session is told otherwise.
"""

from __future__ import annotations

from typing import Any

import onnxruntime


def keep_sessions_to(threads: int) -> None:
    """Have all of ONNX Runtime's sessions from now on made with so many threads."""
    stock = onnxruntime.SessionOptions

    def options() -> Any:
        made = stock()
        made.intra_op_num_threads = threads
        return made

    onnxruntime.SessionOptions = options
