"""Models for benchmarks: the demo model, and untrained ones of any size."""

from __future__ import annotations

from pathlib import Path

from demo.centre_model import write_demo_model
from demo.random_network import Shape, install_random_model


def install_model(model_dir: Path, name: str, shape: Shape | None) -> Path:
    """Write a model into ``model_dir`` and return its path.

    The model is a random network of this ``shape`` with this ``name``, or, without a shape, the demo model, which has
    its own name. Raises OSError and ValueError.
    """
    return install_random_model(model_dir, name, shape) if shape else write_demo_model(model_dir)
