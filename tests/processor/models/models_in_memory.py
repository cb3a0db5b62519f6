"""A folder in memory, for MODEL_PLAIN_DIR."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from processor.models import DecryptionError
from processor.models.encryption.decrypted_dir import require_memory


def memory_folder() -> Iterator[Path]:
    """Yield the folder, for a fixture. Skip the test on machines without a tmpfs, except in CI."""
    base = Path("/dev/shm")
    try:
        require_memory(base)
    except DecryptionError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"/dev/shm: {error}")
    with tempfile.TemporaryDirectory(dir=base) as folder:
        yield Path(folder)
