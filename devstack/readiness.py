"""Ask `/ready` of the services, and print what a service waits for while it starts."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping

import requests

logger = logging.getLogger(__name__)

_PROBE_SECONDS = 3.0
#: A reason that lasts so long is printed, s. Most starts take less.
_PATIENCE_SECONDS = 1.5


def missing_components(url: str, addresses: Mapping[str, str] | None = None) -> list[str] | None:
    """Return what the service at `url` lacks, as "component (address): reason": nothing if it is ready.

    None: it does not answer. `addresses`: the addresses of the components that have one.
    """
    places = {name: f"{name} ({address})" for name, address in (addresses or {}).items()}
    with requests.Session() as session:
        session.trust_env = False  # a proxy cannot reach the loopback of this machine
        try:
            answer = session.get(f"{url}/ready", timeout=_PROBE_SECONDS)
            if answer.ok:
                return []
            components = answer.json()["components"]
            return [
                f"{places.get(name, name)}: {state['error']}"
                for name, state in components.items()
                if state["status"] != "ready"
            ]
        except (requests.RequestException, ValueError, KeyError, TypeError, AttributeError):
            return None


class ReadinessProbe:
    """Returns whether a service is ready, and logs what it waits for: once, and again when that changes.

    `addresses`: the addresses of its components.
    """

    def __init__(self, name: str, url: str, addresses: Mapping[str, str]) -> None:
        self._name = name
        self._url = url
        self._addresses = addresses
        self._reason = ""
        self._since = 0.0
        self._logged = ""

    def __call__(self) -> bool:
        missing = missing_components(self._url, self._addresses)
        reason = "; ".join(missing or [])
        if reason != self._reason:
            self._reason, self._since = reason, time.monotonic()
        elif reason != self._logged and time.monotonic() - self._since >= _PATIENCE_SECONDS:
            self._logged = reason
            logger.info("%s is waiting. %s", self._name, reason)
        if missing == []:
            self._logged = ""
        return missing == []
