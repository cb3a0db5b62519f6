"""Settings of model files and of the memory that loaded models may use."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from settings.types import ADVANCED, Bytes, Section, Urls


def _split_commas(value: object) -> object:
    """Split a list of names, which may contain spaces."""
    return tuple(filter(None, map(str.strip, value.split(",")))) if isinstance(value, str) else value


def _model_name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._ ()+-]{0,127}", value):
        raise ValueError("must be the file name of a model, without a folder, such as UVR-MDX-NET-Inst_HQ_4.onnx")
    return value


class ModelSettings(Section):
    """The default model, the model folder, and the sources of model files."""

    title = "Models"

    model_name: Annotated[str, AfterValidator(_model_name)] = Field(
        "UVR-MDX-NET-Inst_HQ_4.onnx",
        alias="MODEL_NAME",
        description="File name of the model that is loaded at start. It is downloaded into MODEL_FILE_DIR if it is "
        "not there.",
    )
    model_dir: Path = Field(
        Path("models"), alias="MODEL_FILE_DIR", description="Folder of model files, and of lists that add models."
    )
    pool_bytes: Bytes | None = Field(
        None,
        alias="MODEL_POOL_BYTES",
        description="Memory that all loaded models may use together on each GPU, or in main memory (bytes). The child "
        "processes there share it equally. When it is exceeded, the least recently used models are unloaded, "
        "MODEL_NAME last. Unset: 60 % of the GPU's memory or, without a GPU, half of the main memory.",
        json_schema_extra=ADVANCED,
    )
    require_gpu: bool = Field(
        False, alias="REQUIRE_GPU", description="true: refuse to start when separation would run on the CPU."
    )
    mirrors: Urls = Field(
        (),
        alias="MODEL_MIRRORS",
        description="URLs of folders on other servers that hold the model files under their own names, "
        "https://host/path, separated by commas. The original sources of the models are tried last.",
        json_schema_extra=ADVANCED,
    )
    allow: Annotated[tuple[str, ...], BeforeValidator(_split_commas)] = Field(
        (),
        alias="MODEL_ALLOW",
        description="The only models that jobs may use, as file names or patterns such as UVR-MDX-NET-*, separated by "
        "commas; it must include MODEL_NAME. Unset: every model of the lists.",
    )
    offline: bool = Field(
        False, alias="MODEL_OFFLINE", description="true: download no model file and use only those in MODEL_FILE_DIR."
    )
    key_file: Path | None = Field(
        None,
        alias="MODEL_KEY_FILE",
        description="File with the key of encrypted model files. Unset: model files are not encrypted.",
        json_schema_extra=ADVANCED,
    )
    key_command: str | None = Field(
        None,
        alias="MODEL_KEY_COMMAND",
        description="Command that prints that key, such as the client of a key management service. The processor runs "
        "it at its start. Set this or MODEL_KEY_FILE, not both.",
        json_schema_extra=ADVANCED,
    )
    plain_dir: Path = Field(
        Path("/dev/shm"),  # noqa: S108  each user has a folder of its own there
        alias="MODEL_PLAIN_DIR",
        description="Folder of decrypted model files while they are loaded. It should be in memory, not on a disk.",
        json_schema_extra=ADVANCED,
    )

    @model_validator(mode="after")
    def _require_one_key_source(self) -> Self:
        if self.key_file and self.key_command:
            raise ValueError("only one of MODEL_KEY_FILE and MODEL_KEY_COMMAND can be set")
        return self

    @model_validator(mode="after")
    def _require_allowed_default(self) -> Self:
        if not self.allows(self.model_name):
            raise ValueError("MODEL_ALLOW must include MODEL_NAME")
        return self

    def allows(self, name: str) -> bool:
        """Return True if jobs may use the model ``name``."""
        return not self.allow or any(fnmatchcase(name, pattern) for pattern in self.allow)

    @property
    def encrypts(self) -> bool:
        """True if downloaded model files are encrypted."""
        return bool(self.key_file or self.key_command)
