"""Ask `/ready` of the services, and print what a service waits for while it starts."""

from __future__ import annotations

import logging
import time

import requests

logger = logging.getLogger(__name__)

_PROBE_SECONDS = 3.0
#: A reason that lasts so long is printed, s. Most starts take less.
_PATIENCE_SECONDS = 1.5


def missing_components(url: str) -> list[str] | None:
    """Return what the service at `url` lacks, as "component: reason": nothing if it is ready.

    None: it does not answer.
    """
    with requests.Session() as session:
        session.trust_env = False  # a proxy cannot reach the loopback of this machine
        try:
            answer = session.get(f"{url}/ready", timeout=_PROBE_SECONDS)
            if answer.ok:
                return []
            components = answer.json()["components"]
            return [f"{name}: {state['error']}" for name, state in components.items() if state["status"] != "ready"]
        except (requests.RequestException, ValueError, KeyError, TypeError, AttributeError):
            return None


class ReadinessProbe:
    """Returns whether a service is ready, and logs what it waits for: once, and again when that changes."""

    def __init__(self, name: str, url: str) -> None:
        self._name = name
        self._url = url
        self._reason = ""
        self._since = 0.0
        self._logged = ""

    def __call__(self) -> bool:
        missing = missing_components(self._url)
        reason = "; ".join(missing or [])
        if reason != self._reason:
            self._reason, self._since = reason, time.monotonic()
        elif reason != self._logged and time.monotonic() - self._since >= _PATIENCE_SECONDS:
            self._logged = reason
            logger.info("%s is waiting. %s", self._name, reason)
        if missing == []:
            self._logged = ""
        return missing == []
