"""Build the environment of the services: with the user's settings, or without any of them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from config import SECTIONS, KafkaSettings, Section, StorageSettings, read_env_file, variable_names
from devstack.processes.process import free_port
from settings.api import is_loopback

_ROOT = Path(__file__).resolve().parents[1]
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
#: On a development machine, sources and webhooks are on loopback and a person reads the logs.
DEVELOPMENT = {"ALLOW_PRIVATE_NETWORKS": "true", "LOG_FORMAT": "console"}


def development_settings(env_file: Path) -> dict[str, str]:
    """Return `DEVELOPMENT`, without private networks if the user's API_HOST is open to other machines."""
    host = explicit_settings(("API_HOST",), env_file).get("API_HOST", "127.0.0.1")
    return DEVELOPMENT if is_loopback(host) else _without(DEVELOPMENT, ("ALLOW_PRIVATE_NETWORKS",))


def user_environment(env_file: Path, defaults: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of this process, with `defaults` for settings that neither it nor `env_file` sets."""
    needed = _without(defaults, explicit_settings(defaults, env_file))
    return needed | _without_empty(os.environ) | _local_access()


def isolated_environment(settings: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of this process with `settings` in place of every setting of the services."""
    return _without(os.environ, variable_names(SECTIONS)) | dict(settings) | _local_access()


def explicit_settings(names: Iterable[str], env_file: Path) -> dict[str, str]:
    """Return the settings among `names` that the environment or `env_file` sets; the environment overrides the file."""
    found = _without_empty(read_env_file(env_file, os.environ)) | _without_empty(os.environ)
    return {name: found[name] for name in names if name in found}


def server_settings(env_file: Path) -> dict[str, str]:
    """Return the user's settings of Kafka and S3, each only if the user names such a server."""
    named_by: dict[str, type[Section]] = {"KAFKA_BOOTSTRAP_SERVERS": KafkaSettings, "S3_ENDPOINT_URL": StorageSettings}
    sections = [section for name, section in named_by.items() if explicit_settings((name,), env_file)]
    return explicit_settings(variable_names(sections), env_file)


def free_ports() -> dict[str, str]:
    """Return settings with a free port for every service, so that several stacks can run side by side."""
    return {name: str(free_port()) for name in ("API_PORT", "PROCESSOR_HEALTH_PORT", "UPLOADER_HEALTH_PORT")}


def _local_access() -> dict[str, str]:
    """Return variables that make this code importable from every folder, and exclude loopback from proxies."""
    path = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))
    direct = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    no_proxy = ",".join(filter(None, (direct, *_LOOPBACK)))
    return {"PYTHONPATH": path, "NO_PROXY": no_proxy, "no_proxy": no_proxy}


def _without_empty(values: Mapping[str, str | None]) -> dict[str, str]:
    """Drop empty values: the services read them as the default."""
    return {name: value for name, value in values.items() if value}


def _without(values: Mapping[str, str], names: Iterable[str]) -> dict[str, str]:
    excluded = set(names)
    return {name: value for name, value in values.items() if name not in excluded}
