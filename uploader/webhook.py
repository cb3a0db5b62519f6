"""The webhook client: signs after Standard Webhooks 1.0.0, passes the URL guard, enforces a deadline."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from http import HTTPStatus

import requests
import urllib3
from standardwebhooks import Webhook

from pipeline.cancellation import CancelToken
from pipeline.download import ConnectionOptions, UrlGuard, Watchdog, guarded_session, http_errors
from pipeline.download.http.response import retry_after
from pipeline.download.http.session import DIRECT
from pipeline.errors import ErrorCode, PermanentError, TransientError
from pipeline.service.logs import get_logger, loggable_origin

log = get_logger(__name__)

#: Maximum part of a response body that is read, bytes: lets any receiver finish its response, at a low cost.
MAX_RESPONSE_BYTES = 16 * 1024

#: Name of the peer in error sentences, which logs and in the end clients see.
_RECEIVER = "the webhook's receiver"


class WebhookSender:
    """Delivers bodies to receivers; keeps no state between calls. Thread-safe.

    ``secrets``: signing keys, ``whsec_…`` each; two during a rotation, none to send webhooks unsigned.
    ``timeout``: s for a whole exchange, from the DNS lookup to the response. ``connection_options``: proxy and TLS.
    """

    def __init__(
        self, guard: UrlGuard, secrets: Sequence[str], timeout: float, connection_options: ConnectionOptions = DIRECT
    ) -> None:
        self._guard = guard
        self._connection_options = connection_options
        self._signers = [Webhook(secret) for secret in secrets]
        self._timeout = timeout

    def deliver(self, url: str, webhook_id: str, body: bytes, cancel: CancelToken) -> None:
        """POST ``body`` once; return when the receiver has responded with 2xx.

        Raises PermanentError for a URL that the guard forbids and for a 410, TransientError (code ``webhook_failed``)
        for any other response and for none, InfrastructureError for a fault of the configured proxy, and
        CancelledError when the token is set meanwhile.
        """
        response = self._post(url, self._headers(webhook_id, body), body, cancel)
        status = response.status_code
        log.info("webhook_answered", receiver=loggable_origin(url), status=status)
        if 200 <= status < 300:
            return
        if status == HTTPStatus.GONE:
            raise PermanentError(f"{_RECEIVER} is gone for good (410)", code=ErrorCode.WEBHOOK_GONE)
        overloaded = status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)
        raise TransientError(
            f"{_RECEIVER} answered {status}",
            code=ErrorCode.WEBHOOK_FAILED,
            retry_after=retry_after(response.headers.get("Retry-After"), time.time()) if overloaded else None,
        )

    def _headers(self, webhook_id: str, body: bytes) -> dict[str, str]:
        now = datetime.now(UTC)
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "uvr-api",
            "Accept-Encoding": "identity",
            "webhook-id": webhook_id,
            "webhook-timestamp": str(int(now.timestamp())),
        }
        if self._signers:
            text = body.decode()
            headers["webhook-signature"] = " ".join(signer.sign(webhook_id, now, text) for signer in self._signers)
        return headers

    def _post(self, url: str, headers: dict[str, str], body: bytes, cancel: CancelToken) -> requests.Response:
        """Send the request and return the response; its connection is closed."""
        with (
            _transient_failures(),
            Watchdog(_RECEIVER, total=self._timeout, stall=self._timeout, cancel=cancel) as watchdog,
            guarded_session(
                self._guard,
                connect_timeout=self._timeout,
                read_timeout=self._timeout,
                watchdog=watchdog,
                connection_options=self._connection_options,
            ) as session,
            ExitStack() as closing,
        ):
            # The watchdog's verdict comes before the status: headers that it cut off can look complete.
            with http_errors(_RECEIVER, watchdog):
                response = closing.enter_context(session.post(url, data=body, headers=headers, stream=True))
            # Reading a short body lets the receiver finish its response. Its content and errors do not matter.
            remaining = MAX_RESPONSE_BYTES
            with suppress(urllib3.exceptions.HTTPError, OSError):
                while remaining > 0 and (chunk := response.raw.read1(remaining, decode_content=False)):
                    remaining -= len(chunk)
            return response


@contextmanager
def _transient_failures() -> Iterator[None]:
    """Translate all failures but those of the URL: any fault of a receiver, even its certificate, may be temporary."""
    try:
        yield
    except (PermanentError, TransientError) as error:
        if error.code in (ErrorCode.URL_FORBIDDEN, ErrorCode.URL_INVALID):
            raise
        raise TransientError(error.message, code=ErrorCode.WEBHOOK_FAILED) from error
