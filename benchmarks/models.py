"""The models that benchmarks run: the demo's, and untrained ones of any size."""

from __future__ import annotations

from pathlib import Path

from demo.centre_model import write_demo_model
from demo.random_network import Shape, install_random_model


def install_model(model_dir: Path, name: str, shape: Shape | None) -> Path:
    """Put a random network of this shape into ``model_dir`` under ``name``, or the demo model, which has a name of its
    own, if there is no shape. Returns its path. Raises OSError, ValueError."""
    return install_random_model(model_dir, name, shape) if shape else write_demo_model(model_dir)
