"""Liveness (``/health``) and readiness to accept jobs (``/ready``)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import anyio.to_thread
from fastapi import APIRouter, Response

from api import __version__
from api.models import Component, Components, Health, Readiness
from pipeline.errors import PipelineError
from pipeline.service.health import READY_FOR, UNAVAILABLE_FOR
from pipeline.service.log_limit import ChangeLimit
from pipeline.service.logs import get_logger
from pipeline.storage import ObjectStore
from pipeline.transport import Transport

log = get_logger(__name__)

#: Longest wait for the answer of a component, s; below the usual timeout of probes.
CHECK_TIMEOUT = 2.0


class Probe:
    """A blocking check that runs in a thread, with a timeout.

    Requests that arrive while a check runs, or soon after, share its result. A component that hangs therefore occupies
    one thread only, and many requests write no more to the store than a few.
    """

    def __init__(self, name: str, check: Callable[[], None], timeout: float = CHECK_TIMEOUT) -> None:
        self._name = name
        self._check = check
        self._timeout = timeout
        self._running: asyncio.Task[str | None] | None = None
        self._expires = 0.0
        self._limit = ChangeLimit()

    async def component(self) -> Component:
        """Return the state of the component, within the timeout."""
        if self._running is None or (self._running.done() and time.monotonic() >= self._expires):
            self._running = asyncio.create_task(self._run())
        done, _ = await asyncio.wait({self._running}, timeout=self._timeout)
        error = self._running.result() if done else f"no answer within {self._timeout:g} s"
        return Component(status="unavailable", error=error) if error else Component(status="ready")

    async def _run(self) -> str | None:
        """Run the check and return the error in one sentence, or None."""
        error = await self._check_once()
        self._expires = time.monotonic() + (UNAVAILABLE_FOR if error else READY_FOR)
        return error

    async def _check_once(self) -> str | None:
        try:
            await anyio.to_thread.run_sync(self._check, abandon_on_cancel=True)
        except PipelineError as error:
            if self._limit.is_news(self._name, error.message):
                log.warning("component_unavailable", component=self._name, code=error.code, error=error.message)
            return error.message
        except Exception as error:  # boundary: a broken check is an unavailable component, not a 500
            if self._limit.is_news(self._name, repr(error)):
                log.exception("check_failed", component=self._name)
            return "the check itself failed"
        if self._limit.forget(self._name):
            log.info("component_available", component=self._name)
        return None


def health_router(transport: Transport, store: ObjectStore) -> APIRouter:
    """Return the routes ``/health`` and ``/ready``, which need no credentials."""
    router = APIRouter(tags=["health"])
    broker, storage = Probe("broker", transport.check), Probe("storage", store.check)

    @router.head("/health", include_in_schema=False)
    @router.get("/health", summary="Is the process alive?")
    async def health() -> Health:
        return Health(timestamp=int(time.time()), version=__version__)

    @router.head("/ready", include_in_schema=False)
    @router.get(
        "/ready",
        summary="Can jobs be accepted now?",
        response_model_exclude_none=True,
        responses={503: {"model": Readiness, "description": "A component is unavailable; see `components`."}},
    )
    async def ready(response: Response) -> Readiness:
        states = await asyncio.gather(broker.component(), storage.component())
        found = Components(broker=states[0], storage=states[1])
        everything = found.broker.status == found.storage.status == "ready"
        response.status_code = 200 if everything else 503
        return Readiness(status="ready" if everything else "unavailable", components=found)

    return router
