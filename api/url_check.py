"""The URL guard at the door: refuses what can be refused now. The connection itself is checked again later."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from api.errors import ApiError
from api.request_parsing import invalid_url
from pipeline.download.ssrf.url_guard import UrlGuard
from pipeline.errors import ErrorCode, PermanentError, TransientError
from pipeline.service.logs import get_logger

log = get_logger(__name__)

#: Longest wait for name resolution, s. A name that takes longer is accepted: the job will find out.
PATIENCE = 2.0
#: Name resolutions at the same time. Slow ones go on after a request has stopped waiting, so they must be bounded.
_THREADS = 16


class UrlCheck:
    """Asks the guard about URLs without holding up the event loop, for at most ``patience`` s."""

    def __init__(self, guard: UrlGuard, patience: float = PATIENCE) -> None:
        self._guard = guard
        self._patience = patience
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="url-check")

    async def admit(self, urls: Mapping[str, str]) -> None:
        """``urls``: by field name. Raises ApiError: 400 for what is no HTTP(S) URL, 403 for what the guard refuses."""
        for name, url in urls.items():
            try:
                self._guard.check_syntax(url)
            except PermanentError as error:
                raise invalid_url(name, error.message) from None
        for name, failure in (await self._failures(urls)).items():
            self._raise_refusal(name, failure)

    async def _failures(self, urls: Mapping[str, str]) -> dict[str, BaseException]:
        """What the guard raised, by field name."""
        loop = asyncio.get_running_loop()
        checks = {name: loop.run_in_executor(self._threads, self._guard.check, url) for name, url in urls.items()}
        await asyncio.wait(checks.values(), timeout=self._patience)
        for check in checks.values():
            check.cancel()  # no effect on those that have ended
        failures = {name: check.exception() for name, check in checks.items() if check.done() and not check.cancelled()}
        return {name: failure for name, failure in failures.items() if failure is not None}

    @staticmethod
    def _raise_refusal(name: str, error: BaseException) -> None:
        if isinstance(error, TransientError):
            log.info("url_not_checked", field=name, error=error.message)
            return
        if not isinstance(error, PermanentError):
            raise error
        if error.code is ErrorCode.URL_INVALID:
            raise invalid_url(name, error.message)
        raise ApiError(403, f"{name} is refused: {error.message}", details={"field": name, "code": error.code})
