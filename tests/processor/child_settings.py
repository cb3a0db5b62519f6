"""Settings of child processes for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from config import ModelSettings
from processor.ipc import ChildSettings


def child_settings(model_dir: Path, model_name: str, scratch_dir: Path, **others: Any) -> ChildSettings:
    """Return the settings of a child that loads ``model_name``. No GPU is required."""
    return ChildSettings(ModelSettings(model_dir=model_dir, model_name=model_name), scratch_dir, **others)
