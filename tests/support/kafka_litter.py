"""What kafka-python (3.0.12) leaves to the garbage collector: every socket that was refused a connection."""

from __future__ import annotations

import pytest

#: Marks of a test in which there may be some; ``no_kafka_litter`` has it collected before the next test.
LEAVES_SOCKETS = [
    pytest.mark.filterwarnings("ignore:Exception ignored in. <socket.socket:pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:unclosed <socket.socket:ResourceWarning"),
]
