"""Reads the settings of every service once, from the environment, ``.env`` and secret files.

Importing this module reads and creates nothing: ``load()`` reads, at the start of a process. The settings themselves
are in ``settings/``, one model per concern. ``python -m config`` prints ``.env.example``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from pydantic import BaseModel, ConfigDict, SecretStr, ValidationError

from settings.api import ApiSettings
from settings.device import Compile, DeviceSettings, Precision
from settings.download import DownloadSettings
from settings.env_example import render_env_example
from settings.env_file import parse_env_file
from settings.kafka import KafkaSettings, SaslMechanism, SecurityProtocol
from settings.logging import LogFormat, LogSettings
from settings.model import ModelSettings
from settings.sentences import config_sentences
from settings.storage import StateSettings, StorageEngine, StorageSettings
from settings.types import GIB, KIB, MIB, ConfigError, Section
from settings.unknown import unknown_in_environment, unknown_in_file
from settings.webhook import WebhookSettings
from settings.worker import WorkerSettings

__all__ = [
    "GIB", "KIB", "MIB", "SECRETS", "SECTIONS", "ApiSettings", "Compile", "ConfigError", "DeviceSettings",
    "DownloadSettings", "KafkaSettings", "LogFormat", "LogSettings", "ModelSettings", "Precision", "SaslMechanism",
    "Section", "SecurityProtocol", "Settings", "StateSettings", "StorageEngine", "StorageSettings",
    "UnknownVariable", "WebhookSettings", "WorkerSettings", "env_example", "load", "read_env_file",
    "unknown_variables", "variable_names",
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

    ``environment``: read instead of the environment of this process. Names are matched in any case there.
    Raises ConfigError naming each variable that cannot be used, and the unknown ones that may be the cause.
    """
    environment = os.environ if environment is None else environment
    of_file = read_env_file(env_file, environment)
    values: dict[str, str] = {}
    for source in (of_file, environment):
        values |= {name.upper(): value for name, value in source.items() if value}
    for setting, others in {"CA_BUNDLE": _USUAL_CA_BUNDLES, **_AWS_NAMES}.items():
        values.setdefault(setting, next((values[name] for name in others if name in values), ""))
    if environment is os.environ:
        _export_aws_variables(of_file)
    values = {name: _strip(name, values[name]) for name in variable_names(SECTIONS) if name in values}
    try:
        known = _replace_secret_files({name: value for name, value in values.items() if value})
        return Settings.model_validate(dict.fromkeys(Settings.model_fields, known))
    except ValidationError as error:
        problems = list(config_sentences(error))
    except ConfigError as error:
        problems = [str(error)]
    raise ConfigError("; ".join([*problems, *map(str, _unknown(of_file, environment))]))


@dataclass(frozen=True, slots=True)
class UnknownVariable:
    """A variable that is no setting, but was probably meant to be one."""

    name: str
    place: str
    """The environment, or the name of the file."""
    nearest: str | None
    """The setting with the most similar name."""

    def __str__(self) -> str:
        hint = f": did you mean {self.nearest}?" if self.nearest else ""
        return f"{self.name} in {self.place} is no setting{hint}"


def unknown_variables(
    env_file: Path | None = Path(".env"), environment: Mapping[str, str] | None = None
) -> tuple[UnknownVariable, ...]:
    """Return the variables that ``load`` ignores although they look like settings. Raises ConfigError as ``load``."""
    environment = os.environ if environment is None else environment
    return _unknown(read_env_file(env_file, environment), environment)


def _unknown(of_file: Mapping[str, str], environment: Mapping[str, str]) -> tuple[UnknownVariable, ...]:
    settings = variable_names(SECTIONS)
    in_file = set(of_file).difference(environment, _USUAL_CA_BUNDLES)
    return (
        *(UnknownVariable(name, ".env", nearest) for name, nearest in unknown_in_file(in_file, settings)),
        *(
            UnknownVariable(name, "the environment", nearest)
            for name, nearest in unknown_in_environment(environment, settings)
        ),
    )


def read_env_file(path: Path | None, environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of the file; none if there is no file, or no path.

    ``environment``: for references such as ``${HOME}`` in the file. Raises ConfigError if the file cannot be read, or
    if Docker Compose would read it differently.
    """
    if path is None:
        return {}
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ConfigError(f"the file {path} cannot be read ({_reason(error)})") from None
    try:
        values = parse_env_file(text, environment)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    wrong_case = sorted(name for name in values if name != name.upper() in variable_names(SECTIONS))
    if wrong_case:
        correct = ", ".join(f"{name.upper()} instead of {name}" for name in wrong_case)
        raise ConfigError(f"{path}: write {correct}, since Docker Compose distinguishes them")
    return values


def _strip(name: str, value: str) -> str:
    """Remove blanks around a value; of a secret only the line break at its end, which no key or password has."""
    return value.rstrip("\r\n") if name in SECRETS else value.strip()


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
            content = Path(path).read_text(encoding="utf-8").rstrip("\r\n")
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


if __name__ == "__main__":
    sys.stdout.write(env_example())
