"""The request and the answer of a worker."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Spec:
    """The work of one worker."""

    models: str
    model: str
    variant: str
    precision: str
    compile: str
    song: str
    folder: str
    """For the worker's files."""
    repeats: int
    reference: str | None
    """Folder of the reference stems."""


@dataclass(frozen=True, slots=True)
class Figures:
    """The results of one worker."""

    walls: list[float]
    """Time of each run, s."""
    load: float
    """Time until the model was loaded, compiled and warm, s."""
    device: str
    allocated: int | None
    """Peak memory of torch's tensors, bytes."""
    device_peak: int | None
    busy: float | None
    joules: float | None
    """Mean energy of a run."""
    snr: float | None
    """The worst stem's signal-to-noise ratio against the reference, dB."""
