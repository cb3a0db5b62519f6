"""Calls the webhook: signed after Standard Webhooks 1.0.0, through the URL guard, within a deadline that holds."""

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

#: How much of an answer's body is read, bytes: enough for any receiver to finish it, too little to hurt.
MAX_ANSWER = 16 * 1024

#: What the log, and the client in the end, call the other side.
_RECEIVER = "the webhook's receiver"


class WebhookSender:
    """Delivers bodies to receivers; keeps nothing between calls. Thread-safe.

    ``secrets``: ``whsec_…`` each; two while rotating, none to leave webhooks unsigned. ``timeout``: s for a whole
    exchange, from the name look-up to the answer. ``connection_options``: the way to the receivers.
    """

    def __init__(
        self, guard: UrlGuard, secrets: Sequence[str], timeout: float, connection_options: ConnectionOptions = DIRECT
    ) -> None:
        self._guard = guard
        self._connection_options = connection_options
        self._signers = [Webhook(secret) for secret in secrets]
        self._timeout = timeout

    def deliver(self, url: str, webhook_id: str, body: bytes, cancel: CancelToken) -> None:
        """POST ``body`` once; returns when the receiver has answered 2xx.

        Raises PermanentError for a URL that must not be talked to or that answers 410, TransientError (code
        ``webhook_failed``) for every other answer and for none, InfrastructureError if our own proxy is to blame,
        CancelledError when the token is set meanwhile.
        """
        answer = self._post(url, self._headers(webhook_id, body), body, cancel)
        status = answer.status_code
        log.info("webhook_answered", receiver=loggable_origin(url), status=status)
        if 200 <= status < 300:
            return
        if status == HTTPStatus.GONE:
            raise PermanentError(f"{_RECEIVER} is gone for good (410)", code=ErrorCode.WEBHOOK_GONE)
        raise TransientError(
            f"{_RECEIVER} answered {status}", code=ErrorCode.WEBHOOK_FAILED, retry_after=_retry_after(answer)
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
        """The answer, of which the connection is closed."""
        with (
            _failures_named(),
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
            # The verdict of the watchdog comes before the status: headers that it cut off can look complete.
            with http_errors(_RECEIVER, watchdog):
                answer = closing.enter_context(session.post(url, data=body, headers=headers, stream=True))
            _drain(answer)
            return answer


@contextmanager
def _failures_named() -> Iterator[None]:
    """Whatever ails a receiver today, its certificate included, may be mended tomorrow."""
    try:
        yield
    except (PermanentError, TransientError) as error:
        if error.code in (ErrorCode.URL_FORBIDDEN, ErrorCode.URL_INVALID):
            raise
        raise TransientError(error.message, code=ErrorCode.WEBHOOK_FAILED) from error


def _drain(answer: requests.Response) -> None:
    """Let the receiver finish a short answer. What it says is of no interest, nor is how it ends."""
    left = MAX_ANSWER
    with suppress(urllib3.exceptions.HTTPError, OSError):
        while left > 0 and (piece := answer.raw.read1(left, decode_content=False)):
            left -= len(piece)


def _retry_after(answer: requests.Response) -> float | None:
    """The delay (s) that a receiver asks for which is overloaded (429) or away (503)."""
    if answer.status_code not in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE):
        return None
    return retry_after(answer.headers.get("Retry-After"), time.time())
