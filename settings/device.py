"""Settings of the computation on GPUs: precision, compilation, batches, TensorRT."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from settings.types import ADVANCED, Choice, Section


class Precision(Choice):
    """Number format in which networks compute on a GPU."""

    AUTO = "auto"
    FP32 = "fp32"
    TF32 = "tf32"
    FP16 = "fp16"
    BF16 = "bf16"


class Compile(Choice):
    """Compilation of torch networks when they are loaded."""

    NONE = "none"
    INDUCTOR = "inductor"
    GRAPHS = "graphs"


class DeviceSettings(Section):
    """Options of the networks that run on a device."""

    title = "GPU computation"

    precision: Precision = Field(
        Precision.AUTO,
        alias="PRECISION",
        description="Number format in which networks compute: fp32 (IEEE 754), tf32, fp16, bf16, or auto. On a GPU, "
        "auto chooses the fastest format whose output stays within 60 dB of fp32, measured when a model is loaded; "
        "elsewhere it means fp32.",
    )
    compile: Compile = Field(
        Compile.NONE,
        alias="TORCH_COMPILE",
        description="Compilation of torch networks when they are loaded: none, inductor (torch.compile; it takes "
        "minutes and needs a C++ compiler) or graphs (CUDA graphs; MDX networks only).",
        json_schema_extra=ADVANCED,
    )
    batch: Annotated[int, Field(ge=1, le=64)] = Field(
        4,
        alias="GPU_BATCH",
        description="Number of segments in one batch on a GPU. Demucs models choose their own.",
        json_schema_extra=ADVANCED,
    )
    tensorrt: bool = Field(
        False,
        alias="TENSORRT",
        description="true: run MDX networks with TensorRT, which must be installed. It needs PRECISION=tf32, fp16 or "
        "bf16, and takes minutes to build an engine.",
        json_schema_extra=ADVANCED,
    )
    tensorrt_dir: Path = Field(
        Path(".local/tensorrt"),
        alias="TENSORRT_DIR",
        description="Folder of the engines that TensorRT has built, which contain the weights. Engines are not kept "
        "if model files are encrypted.",
        json_schema_extra=ADVANCED,
    )

    @model_validator(mode="after")
    def _require_tensorrt_support(self) -> Self:
        if self.tensorrt and self.precision in (Precision.AUTO, Precision.FP32):
            raise ValueError("TENSORRT needs PRECISION=tf32, fp16 or bf16: it calculates in no higher one")
        if self.tensorrt and self.compile is not Compile.NONE:
            raise ValueError("TENSORRT and TORCH_COMPILE cannot both be set")
        return self
