"""The choice of a model: one model by its name, or an ensemble of several whose stems are combined."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
    field_validator,
    model_validator,
)

#: A file name, never a path.
MODEL_NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._ ()+-]{0,127}$"
ModelName = Annotated[str, StringConstraints(pattern=MODEL_NAME_PATTERN)]

#: The stems of all members stay on the disk until the last member is done.
MAX_MEMBERS = 8
#: Weights outside this range would make no difference beside each other.
SMALLEST_WEIGHT, LARGEST_WEIGHT = 1e-6, 1e6


class Algorithm(StrEnum):
    """The ways to combine stems of the same name; the names are those of audio-separator."""

    AVG_WAVE = "avg_wave"
    """The weighted average."""
    MEDIAN_WAVE = "median_wave"
    MIN_WAVE = "min_wave"
    """The value with the smallest magnitude, for each sample."""
    MAX_WAVE = "max_wave"
    AVG_FFT = "avg_fft"
    """The weighted average, for each bin of the spectra."""
    MEDIAN_FFT = "median_fft"
    """The median of the real and of the imaginary parts."""
    MIN_FFT = "min_fft"
    MAX_FFT = "max_fft"
    UVR_MAX_SPEC = "uvr_max_spec"
    """As ``max_fft``, but of equal values the last instead of the first."""
    UVR_MIN_SPEC = "uvr_min_spec"
    ENSEMBLE_WAV = "ensemble_wav"
    """The quietest stem, for each whole channel."""

    @property
    def is_weighted(self) -> bool:
        """Return whether the algorithm uses weights."""
        return self in (Algorithm.AVG_WAVE, Algorithm.AVG_FFT)


Weight = Annotated[float, Field(strict=True, ge=SMALLEST_WEIGHT, le=LARGEST_WEIGHT)]


class Ensemble(BaseModel):
    """Several models whose stems of the same name are combined into one."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    ensemble: Annotated[tuple[ModelName, ...], Field(min_length=2, max_length=MAX_MEMBERS)]
    algorithm: Algorithm = Algorithm.AVG_WAVE
    weights: tuple[Weight, ...] | None = None
    """One weight for each model, in order; None: equal weights."""

    @field_validator("ensemble")
    @classmethod
    def _reject_duplicates(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(names)) < len(names):
            raise ValueError("names a model twice")
        return names

    @field_validator("algorithm", mode="before")
    @classmethod
    def _replace_null(cls, value: Any) -> Any:
        return Algorithm.AVG_WAVE if value is None else value

    @model_validator(mode="after")
    def _check_weights(self) -> Self:
        if self.weights is None:
            return self
        if len(self.weights) != len(self.ensemble):
            raise ValueError(f"has {len(self.weights)} weights for {len(self.ensemble)} models")
        if not self.algorithm.is_weighted:
            raise ValueError(f"has weights, which {self.algorithm} knows nothing of")
        return self

    def __str__(self) -> str:
        """Format as in results and webhooks: ``max_fft: a.onnx, b.ckpt``, ``avg_wave: a.onnx*2, b.ckpt*1``."""
        members = self.ensemble if self.weights is None else map("{}*{:.12g}".format, self.ensemble, self.weights)
        return f"{self.algorithm}: {', '.join(members)}"


#: The name of a model or of one of audio-separator's presets, or an ensemble.
ModelChoice = Annotated[
    Annotated[ModelName, Tag("name")] | Annotated[Ensemble, Tag("ensemble")],
    Discriminator(lambda value: "ensemble" if isinstance(value, dict | Ensemble) else "name"),
]
