"""Marks for tests in which kafka-python (3.0.12) leaves refused sockets to the garbage collector."""

from __future__ import annotations

import pytest

#: The fixture ``no_kafka_litter`` collects such sockets before the next test.
LEAVES_SOCKETS = [
    pytest.mark.filterwarnings("ignore:Exception ignored in. <socket.socket:pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:unclosed <socket.socket:ResourceWarning"),
]
