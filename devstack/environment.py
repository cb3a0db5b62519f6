"""The environment that services are started with: the user's own, or one that holds none of the user's settings."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from dotenv import dotenv_values

from config import SECTIONS, KafkaSettings, Section, StorageSettings, variable_names
from devstack.process import free_port

_ROOT = Path(__file__).resolve().parents[1]
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
#: Sources and webhooks of a development machine are on loopback, and its logs are read by a person.
DEVELOPMENT = {"ALLOW_PRIVATE_NETWORKS": "true", "LOG_FORMAT": "console"}


def everyday(env_file: Path, defaults: Mapping[str, str]) -> dict[str, str]:
    """This process's environment, and `defaults` for what neither it nor `env_file` sets."""
    return _without(defaults, explicit_settings(defaults, env_file)) | _set(os.environ) | _reachable()


def apart(settings: Mapping[str, str]) -> dict[str, str]:
    """This process's environment with `settings` in place of every setting of the services."""
    return _without(os.environ, variable_names(SECTIONS)) | dict(settings) | _reachable()


def explicit_settings(names: Iterable[str], env_file: Path) -> dict[str, str]:
    """What the user has set himself, in the environment or in `env_file`."""
    found = _set(dotenv_values(env_file)) | _set(os.environ)
    return {name: found[name] for name in names if name in found}


def connections(env_file: Path) -> dict[str, str]:
    """What the user has set about a broker and a store of his own, if he names one."""
    own: dict[str, type[Section]] = {"KAFKA_BOOTSTRAP_SERVERS": KafkaSettings, "S3_ENDPOINT_URL": StorageSettings}
    sections = [section for name, section in own.items() if explicit_settings((name,), env_file)]
    return explicit_settings(variable_names(sections), env_file)


def free_ports() -> dict[str, str]:
    """Ports of their own for every service, so that two stacks can run side by side."""
    return {name: str(free_port()) for name in ("API_PORT", "PROCESSOR_HEALTH_PORT", "UPLOADER_HEALTH_PORT")}


def _reachable() -> dict[str, str]:
    """The code is found from every folder, and loopback without the proxy that leads out of the machine."""
    path = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))
    direct = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    no_proxy = ",".join(filter(None, (direct, *_LOOPBACK)))
    return {"PYTHONPATH": path, "NO_PROXY": no_proxy, "no_proxy": no_proxy}


def _set(values: Mapping[str, str | None]) -> dict[str, str]:
    """An empty value sets nothing: the services read it as the default."""
    return {name: value for name, value in values.items() if value}


def _without(values: Mapping[str, str], names: Iterable[str]) -> dict[str, str]:
    left_out = set(names)
    return {name: value for name, value in values.items() if name not in left_out}
