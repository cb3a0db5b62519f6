"""The wait of a starting service for what it needs: broker, stores, model. The log names what is missing, and why."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Self

from pipeline.backoff import Backoff
from pipeline.errors import ErrorCode, PipelineError
from pipeline.service.log_limit import ChangeLimit
from pipeline.service.logs import get_logger, loggable_url
from pipeline.service.shutdown import StopSignal

if TYPE_CHECKING:
    from config import Settings

log = get_logger(__name__)

#: Time after which a component without any answer is reported, s.
SILENT_AFTER = 1.0


def component_addresses(settings: Settings) -> dict[str, str]:
    """Return where the settings look for the broker and the two stores, by component, for the log."""
    storage, state = settings.storage, settings.state
    server = loggable_url(storage.s3_endpoint_url) if storage.s3_endpoint_url else f"AWS, region {storage.aws_region}"
    s3 = f"{server}, bucket {storage.s3_bucket}"
    return {
        "broker": settings.kafka.bootstrap_servers or str(state.broker_file),
        "storage": s3 if storage.engine.value == "s3" else str(state.stems_dir),
        "handoff": s3 if storage.handoff.value == "s3" else str(state.handoff_dir),
    }


class ComponentWait:
    """Repeats the checks of all components, each in a thread of its own, until each has passed once.

    The threads run inside the ``with`` block. A failed check is logged with the address of its component, once for
    each reason and then every minute. A broker that rejects this service, or a defect, ends the wait and begins the
    shutdown.
    """

    def __init__(
        self,
        checks: Mapping[str, Callable[[], None]],
        backoff: Backoff,
        stop: StopSignal,
        addresses: Mapping[str, str] | None = None,
    ) -> None:
        self._checks = checks
        self._backoff = backoff
        self._stop = stop
        self._addresses = addresses or {}
        self._over = threading.Event()
        self._changed = threading.Condition()
        self._missing = set(checks)
        self._reported: set[str] = set()
        self._error: BaseException | None = None
        self._limit = ChangeLimit()
        self._started_at = time.monotonic()

    def __enter__(self) -> Self:
        self._stop.on_request(self._end)
        for name in self._checks:
            threading.Thread(target=self._repeat, args=(name,), name=f"wait-{name}", daemon=True).start()
        threading.Thread(target=self._report_silent, name="wait-silent", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def wait(self) -> bool:
        """Wait until every check has passed; return False if the shutdown begins first.

        Raises the error of a check that cannot pass: RefusedError, or any exception that is no PipelineError.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._over.is_set() or not self._missing)
            if self._error is not None:
                raise self._error
            return not self._missing

    def raise_if_failed(self) -> None:
        """Raise the error that has ended the wait, if there is one."""
        if self._error is not None:
            raise self._error

    def _end(self) -> None:
        with self._changed:
            self._over.set()
            self._changed.notify_all()

    def _repeat(self, name: str) -> None:
        rng = random.Random()  # noqa: S311  jitter of a delay
        failures = 0
        while not self._over.is_set():
            try:
                self._checks[name]()
            except PipelineError as error:
                if error.code is ErrorCode.BROKER_REFUSED:
                    return self._fail(name, error)
                failures += 1
                self._report(name, error.message)
                self._over.wait(self._backoff.delay(failures, rng))
            except Exception as error:  # noqa: BLE001  the main thread raises it
                return self._fail(name, error)
            else:
                return self._pass(name)
        return None

    def _pass(self, name: str) -> None:
        with self._changed:
            self._missing.discard(name)
            self._changed.notify_all()
        if name in self._reported:
            log.info("component_ready", component=name, after_seconds=round(time.monotonic() - self._started_at, 1))

    def _fail(self, name: str, error: Exception) -> None:
        self._error = self._error or error
        self._end()
        self._stop.request(f"{name} cannot be used")

    def _report(self, name: str, error: str) -> None:
        if self._over.is_set() or not self._limit.is_news(name, error):
            return
        self._reported.add(name)
        address = {"address": self._addresses[name]} if name in self._addresses else {}
        log.warning("waiting_for_component", component=name, **address, error=error)

    def _report_silent(self) -> None:
        if not self._over.wait(SILENT_AFTER):
            for name in sorted(self._missing - self._reported):
                self._report(name, "no answer yet")
