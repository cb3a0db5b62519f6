"""Reads the settings of every service once, from the environment, ``.env`` and secret files.

Importing this module reads and creates nothing: ``load()`` reads, at the start of a process. The settings themselves
are in ``settings/``, one model per concern. ``python -m config`` prints ``.env.example``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import cast

from dotenv import dotenv_values
from pydantic import BaseModel, ConfigDict, SecretStr, ValidationError

from settings.api import ApiSettings
from settings.device import Compile, DeviceSettings, Precision
from settings.download import DownloadSettings
from settings.env_example import render_env_example
from settings.kafka import KafkaSettings, SaslMechanism, SecurityProtocol
from settings.logging import LogFormat, LogSettings
from settings.model import ModelSettings
from settings.storage import StateSettings, StorageEngine, StorageSettings
from settings.types import GIB, KIB, MIB, ConfigError, Section
from settings.webhook import WebhookSettings
from settings.worker import WorkerSettings

__all__ = [
    "GIB", "KIB", "MIB", "SECRETS", "SECTIONS", "ApiSettings", "Compile", "ConfigError", "DeviceSettings",
    "DownloadSettings", "KafkaSettings", "LogFormat", "LogSettings", "ModelSettings", "Precision", "SaslMechanism",
    "Section", "SecurityProtocol", "Settings", "StateSettings", "StorageEngine", "StorageSettings",
    "WebhookSettings", "WorkerSettings", "env_example", "load", "variable_names",
]  # fmt: skip


class Settings(BaseModel):
    """All settings. Each section is validated from the same mapping of variables."""

    model_config = ConfigDict(frozen=True)

    api: ApiSettings
    kafka: KafkaSettings
    state: StateSettings
    storage: StorageSettings
    model: ModelSettings
    device: DeviceSettings
    download: DownloadSettings
    worker: WorkerSettings
    webhook: WebhookSettings
    log: LogSettings


SECTIONS = tuple(cast("type[Section]", field.annotation) for field in Settings.model_fields.values())
#: Names of the settings that can be read from a file as well, named by the variable with ``_FILE`` after its name.
SECRETS = tuple(
    str(field.alias)
    for section in SECTIONS
    for field in section.model_fields.values()
    if SecretStr.__name__ in str(field.annotation)
)

#: The variables by which other programs find certificate authorities, in the order in which they are tried.
_USUAL_CA_BUNDLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
#: The variables of settings that Amazon's programs know by another name, by the name of ours.
_AWS_NAMES = {
    "S3_ENDPOINT_URL": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"),
    "AWS_SESSION_TOKEN": ("AWS_SECURITY_TOKEN",),
}


def load(env_file: Path | None = Path(".env"), environment: Mapping[str, str] | None = None) -> Settings:
    """Read and check every setting. The environment overrides ``env_file``; an empty value counts as unset.

    ``environment``: read instead of the environment of this process. Names are matched in any case.
    Raises ConfigError naming each variable that cannot be used.
    """
    try:
        of_file = dotenv_values(env_file) if env_file and env_file.is_file() else {}
    except (OSError, ValueError) as error:
        raise ConfigError(f"the file {env_file} cannot be read ({_reason(error)})") from None
    values: dict[str, str] = {}
    for source in (of_file, os.environ if environment is None else environment):
        values |= {name.upper(): value for name, value in source.items() if value}
    for setting, others in {"CA_BUNDLE": _USUAL_CA_BUNDLES, **_AWS_NAMES}.items():
        values.setdefault(setting, next((values[name] for name in others if name in values), ""))
    if environment is None:
        _export_aws_variables(of_file)
    known = _replace_secret_files({name: values[name] for name in variable_names(SECTIONS) if name in values})
    try:
        return Settings.model_validate(dict.fromkeys(Settings.model_fields, known))
    except ValidationError as error:
        raise ConfigError("; ".join(_sentences(error))) from None


def variable_names(sections: Iterable[type[Section]]) -> set[str]:
    """Return the variables of these sections, with the ``_FILE`` variant of each secret."""
    names = {str(field.alias) for section in sections for field in section.model_fields.values()}
    return names | {f"{name}_FILE" for name in names.intersection(SECRETS)}


def env_example() -> str:
    """Return the text of ``.env.example``: every variable with its description and default, commented out."""
    return render_env_example(SECTIONS, SECRETS)


def _export_aws_variables(of_file: Mapping[str, str | None]) -> None:
    """Add boto3's variables in the file, such as AWS_PROFILE, to the environment: boto3 reads them only there."""
    for name, value in of_file.items():
        if value and name.startswith("AWS_") and name not in variable_names(SECTIONS):
            os.environ.setdefault(name, value)


def _replace_secret_files(values: Mapping[str, str]) -> dict[str, str]:
    """Replace ``NAME_FILE`` of each secret by ``NAME`` with the content of that file. Raises ConfigError."""
    result, problems = dict(values), []
    for name in SECRETS:
        path = result.pop(f"{name}_FILE", None)
        if path is None:
            continue
        try:
            content = Path(path).read_text(encoding="utf-8").removesuffix("\n")
        except (OSError, ValueError) as error:
            problems.append(f"{name}_FILE: the file cannot be read ({_reason(error)})")
            continue
        if name in result:
            problems.append(f"{name} and {name}_FILE are both set: set only one of them")
        elif not content:
            problems.append(f"{name}_FILE: the file is empty")
        result[name] = content
    if problems:
        raise ConfigError("; ".join(problems))
    return result


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or "it is not UTF-8 text"


def _sentences(error: ValidationError) -> Iterator[str]:
    """Yield one sentence per wrong variable, without its value, which may be a secret."""
    for item in error.errors(include_input=False, include_url=False):
        name = ".".join(str(part) for part in item["loc"][1:])  # the first part is the section
        message = item["msg"].removeprefix("Value error, ")
        yield f"{name}: {message}" if name else message


if __name__ == "__main__":
    sys.stdout.write(env_example())
