"""The boundary where the exceptions of requests, urllib3, http.client, ssl and socket become ours."""

from __future__ import annotations

import http.client
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import requests.exceptions as rq
import urllib3.exceptions as u3

from pipeline.download.http.response import incomplete, senseless_length
from pipeline.download.http.watchdog import Watchdog
from pipeline.errors import ErrorCode, PermanentError, PipelineError, TransientError
from pipeline.service.logs import get_logger

log = get_logger(__name__)


@contextmanager
def http_errors(subject: str, watchdog: Watchdog) -> Iterator[None]:
    """Turn what the block's HTTP calls raise into PipelineErrors whose sentence begins with ``subject``.

    The watchdog's verdict comes first, at the end of the block too: a socket that it shut down can look like an answer
    that is complete.
    """
    try:
        yield
    except PipelineError:
        raise
    except (rq.RequestException, u3.HTTPError, http.client.HTTPException, OSError, ValueError) as error:
        watchdog.raise_if_fired()
        # Their text carries whole URLs, signatures and all: it goes neither into a log nor along with ours.
        log.info("http_fault", subject=subject, causes=[type(cause).__name__ for cause in causes(error)])
        raise fault(error, subject) from None
    watchdog.raise_if_fired()


def fault(error: BaseException, subject: str) -> PipelineError:
    """What ``error`` means for the job. Every exception gets an answer; the last rule takes what nobody named."""
    chain = tuple(causes(error))
    for kinds, make in _RULES:
        if any(isinstance(cause, kinds) for cause in chain):
            return make(subject)
    return _unavailable(subject)


def causes(error: BaseException) -> Iterator[BaseException]:
    """``error`` and the exceptions that it wraps.

    The libraries wrap in arguments, in ``reason`` and by ``raise … from``. ``__context__`` is left out: it may be an
    exception that our caller was handling when the request was made.
    """
    pending = [error]
    seen: set[int] = set()
    while pending:
        cause = pending.pop(0)
        if id(cause) in seen:
            continue
        seen.add(id(cause))
        yield cause
        wrapped = (*cause.args, getattr(cause, "reason", None), cause.__cause__)
        pending += [item for item in wrapped if isinstance(item, BaseException)]


def _untrusted(subject: str) -> PipelineError:
    return PermanentError(f"{subject} has no valid TLS certificate", code=ErrorCode.SOURCE_REFUSED)


def _unavailable(subject: str) -> PipelineError:
    return TransientError(f"{subject} cannot be reached", code=ErrorCode.SOURCE_UNAVAILABLE)


def _timed_out(subject: str) -> PipelineError:
    return TransientError(f"{subject} did not answer in time", code=ErrorCode.SOURCE_TIMEOUT)


def _garbled(subject: str) -> PipelineError:
    return TransientError(f"{subject} did not answer in proper HTTP", code=ErrorCode.SOURCE_PROTOCOL)


def _circular(subject: str) -> PipelineError:
    return PermanentError(f"{subject} redirects too often", code=ErrorCode.SOURCE_REFUSED)


def _invalid(subject: str) -> PipelineError:
    return PermanentError("the URL is not a valid http(s) URL", code=ErrorCode.URL_INVALID)


_Rule = tuple[tuple[type[BaseException], ...], Callable[[str], PipelineError]]

#: The first rule that any exception of the chain meets decides, so the order matters: urllib3 derives a refused
#: connection from its time-outs, and http.client a closed one from its parse errors.
_RULES: tuple[_Rule, ...] = (
    ((ssl.SSLCertVerificationError,), _untrusted),
    ((ConnectionError, socket.gaierror, ssl.SSLEOFError, u3.NewConnectionError), _unavailable),
    ((TimeoutError, u3.TimeoutError, rq.Timeout), _timed_out),
    ((http.client.IncompleteRead,), incomplete),
    ((rq.TooManyRedirects,), _circular),
    ((rq.InvalidHeader, u3.InvalidHeader), senseless_length),
    (
        (
            rq.InvalidURL,
            rq.MissingSchema,
            rq.InvalidSchema,
            rq.URLRequired,
            u3.LocationValueError,
            u3.ProxySchemeUnsupported,
            UnicodeError,
        ),
        _invalid,
    ),
    (
        (
            ssl.SSLError,
            rq.SSLError,
            u3.SSLError,
            http.client.HTTPException,
            rq.ChunkedEncodingError,
            rq.ContentDecodingError,
            rq.InvalidJSONError,
            u3.DecodeError,
            u3.HeaderParsingError,
            u3.ResponseNotChunked,
            u3.BodyNotHttplibCompatible,
        ),
        _garbled,
    ),
)
