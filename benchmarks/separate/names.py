"""What contenders are called, on command lines and in results."""

from __future__ import annotations

from typing import Final

OURS: Final = "ours"
STOCK: Final = "stock"
COMMAND: Final = "command"
#: Ours, but for threads: they are as the libraries have them if nobody says anything.
UNSETTLED: Final = "unsettled"
#: Ours, but that ONNX Runtime may run several operators of a network at a time.
SIDE_BY_SIDE: Final = "side by side"
