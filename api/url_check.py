"""Early check of URLs by the SSRF guard. Each connection is checked again when it is made."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from api.errors import ApiError
from api.request_parsing import invalid_url
from pipeline.download.ssrf.url_guard import ForbiddenUrlError, UnknownHostError, UrlGuard
from pipeline.download.ssrf.url_parser import ParsedUrl
from pipeline.errors import PermanentError, TransientError
from pipeline.service.logs import get_logger

log = get_logger(__name__)

#: Longest wait for name resolution, s. A name that takes longer is accepted; the job checks it again.
RESOLVE_TIMEOUT = 2.0
#: Concurrent name resolutions. Slow ones continue after their request has timed out, so they must be bounded.
_THREADS = 16


class UrlCheck:
    """Runs the SSRF guard in threads, so that the event loop is never blocked, for at most ``timeout`` s."""

    def __init__(self, guard: UrlGuard, timeout: float = RESOLVE_TIMEOUT) -> None:
        self._guard = guard
        self._timeout = timeout
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="url-check")

    async def require_allowed(self, urls: Mapping[str, str]) -> None:
        """Check ``urls``, by field name. Raises ApiError 400 for an invalid URL, 403 for one that the guard refuses."""
        parsed = {name: self._parsed(name, url) for name, url in urls.items()}
        for name, failure in (await self._failures(urls)).items():
            self._raise_refusal(name, parsed[name], failure)

    def _parsed(self, name: str, url: str) -> ParsedUrl:
        try:
            return self._guard.check_syntax(url)
        except PermanentError as error:
            raise invalid_url(name, error.message) from None

    async def _failures(self, urls: Mapping[str, str]) -> dict[str, BaseException]:
        """Return the exceptions of the guard, by field name."""
        loop = asyncio.get_running_loop()
        checks = {name: loop.run_in_executor(self._threads, self._guard.check, url) for name, url in urls.items()}
        await asyncio.wait(checks.values(), timeout=self._timeout)
        for check in checks.values():
            check.cancel()  # No effect on finished ones.
        failures = {name: check.exception() for name, check in checks.items() if check.done() and not check.cancelled()}
        return {name: failure for name, failure in failures.items() if failure is not None}

    def _raise_refusal(self, name: str, url: ParsedUrl, error: BaseException) -> None:
        if isinstance(error, UnknownHostError) and not self._guard.allows_private:
            # As for a name that leads into a private network: the difference would reveal which names exist there.
            error = ForbiddenUrlError("the name does not exist")
        if isinstance(error, TransientError):
            log.info("url_not_checked", field=name, host=url.host, error=error.message)
            return
        if not isinstance(error, PermanentError):
            raise error
        if not isinstance(error, ForbiddenUrlError):
            raise invalid_url(name, error.message)
        raise ApiError(
            403,
            f"{name} is refused: {error.message}",
            details={"field": name, "code": error.code},
            log_details={"field": name, "host": url.host, "port": url.port, "rule": error.rule},
        )
