"""The boundary at which the exceptions of requests, urllib3, http.client, ssl and socket become PipelineErrors."""

from __future__ import annotations

import http.client
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import requests.exceptions as rq
import urllib3.exceptions as u3

from pipeline.download.http.response import invalid_length, source_incomplete
from pipeline.download.http.watchdog import Watchdog
from pipeline.download.ssrf.url_guard import NO_SUCH_NAME
from pipeline.errors import ErrorCode, PermanentError, PipelineError, TransientError
from pipeline.service.logs import get_logger

log = get_logger(__name__)


@contextmanager
def http_errors(subject: str, watchdog: Watchdog) -> Iterator[None]:
    """Turn the exceptions of the block's HTTP calls into PipelineErrors whose sentence begins with ``subject``.

    The watchdog's verdict takes precedence, at the end of the block too: a socket that it has shut down can look like
    the end of a complete response.
    """
    try:
        yield
    except PipelineError:
        raise
    except (rq.RequestException, u3.HTTPError, http.client.HTTPException, OSError, ValueError) as error:
        watchdog.raise_if_fired()
        # Only the types: the texts contain whole URLs with their signatures.
        log.info("http_error", subject=subject, causes=[type(cause).__name__ for cause in causes(error)])
        raise translate_http_error(error, subject) from None
    watchdog.raise_if_fired()


def translate_http_error(error: BaseException, subject: str) -> PipelineError:
    """Return the PipelineError for ``error``: ``source_unavailable`` unless a rule matches.

    A name that does not exist is permanent. A resolver that does not answer is not: it reports another error.
    """
    chain = tuple(causes(error))
    if any(isinstance(cause, socket.gaierror) and cause.errno in NO_SUCH_NAME for cause in chain):
        return PermanentError(f"{subject} has a host name that does not exist", code=ErrorCode.SOURCE_NOT_FOUND)
    for kinds, make in _RULES:
        if any(isinstance(cause, kinds) for cause in chain):
            return make(subject)
    return _unavailable(subject)


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield ``error`` and the exceptions that it wraps.

    The libraries wrap in arguments, in ``reason`` and by ``raise … from``. ``__context__`` is left out: it may be an
    exception that the caller was handling when it made the request.
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


_Make = Callable[[str], PipelineError]


def _maker(kind: type[PipelineError], code: ErrorCode, sentence: str) -> _Make:
    return lambda subject: kind(sentence.format(subject), code=code)


_unavailable = _maker(TransientError, ErrorCode.SOURCE_UNAVAILABLE, "{} cannot be reached")

#: The first rule that any exception of the chain matches decides, so the order matters: urllib3 derives a refused
#: connection from its timeouts, and http.client a closed one from its parse errors.
_RULES: tuple[tuple[tuple[type[BaseException], ...], _Make], ...] = (
    (
        (ssl.SSLCertVerificationError,),
        _maker(PermanentError, ErrorCode.SOURCE_REFUSED, "{} has no valid TLS certificate"),
    ),
    ((ConnectionError, socket.gaierror, ssl.SSLEOFError, u3.NewConnectionError), _unavailable),
    (
        (TimeoutError, u3.TimeoutError, rq.Timeout),
        _maker(TransientError, ErrorCode.SOURCE_TIMEOUT, "{} did not answer in time"),
    ),
    ((http.client.IncompleteRead,), source_incomplete),
    ((rq.TooManyRedirects,), _maker(PermanentError, ErrorCode.SOURCE_REFUSED, "{} redirects too often")),
    ((rq.InvalidHeader, u3.InvalidHeader), invalid_length),
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
        _maker(PermanentError, ErrorCode.URL_INVALID, "the URL is not a valid http(s) URL"),
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
        _maker(TransientError, ErrorCode.SOURCE_PROTOCOL, "{} did not answer in proper HTTP"),
    ),
)
