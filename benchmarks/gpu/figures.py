"""What a worker is told, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Spec:
    """What is to be done."""

    models: str
    model: str
    variant: str
    precision: str
    compile: str
    song: str
    folder: str
    """The worker's own."""
    repeats: int
    reference: str | None
    """Folder of the stems to compare with."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What came of it."""

    walls: list[float]
    """Of each run, s."""
    load: float
    """Until the model was ready, compiled and warm, s."""
    device: str
    allocated: int | None
    """Most memory that torch had for tensors, bytes."""
    device_peak: int | None
    busy: float | None
    joules: float | None
    """Of one run, on average."""
    snr: float | None
    """The least of the stems' ratios of signal to noise against the reference, dB."""
