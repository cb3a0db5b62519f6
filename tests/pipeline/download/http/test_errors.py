"""No exception of the HTTP libraries passes the boundary, and each has one translation."""

from __future__ import annotations

import http.client
import inspect
import socket
import ssl
from collections.abc import Iterator
from types import ModuleType

import pytest
import requests.exceptions
import urllib3.exceptions

from pipeline.cancellation import CancelToken
from pipeline.download import Watchdog, http_errors
from pipeline.download.http.errors import translate_http_error
from pipeline.errors import CancelledError, ErrorCode, ErrorKind, PermanentError, PipelineError

TRANSIENT, PERMANENT = ErrorKind.TRANSIENT, ErrorKind.PERMANENT
UNAVAILABLE = (TRANSIENT, ErrorCode.SOURCE_UNAVAILABLE)
TIMEOUT = (TRANSIENT, ErrorCode.SOURCE_TIMEOUT)
INCOMPLETE = (TRANSIENT, ErrorCode.SOURCE_INCOMPLETE)
INVALID_HTTP = (TRANSIENT, ErrorCode.SOURCE_PROTOCOL)
INVALID_LENGTH = (PERMANENT, ErrorCode.SOURCE_PROTOCOL)
REFUSED = (PERMANENT, ErrorCode.SOURCE_REFUSED)
NO_SUCH_NAME = (PERMANENT, ErrorCode.SOURCE_NOT_FOUND)
INVALID = (PERMANENT, ErrorCode.URL_INVALID)

Meaning = tuple[ErrorKind, ErrorCode]

#: Every exception class of the two libraries. A release that adds one fails the test below until the table has it.
REQUESTS: dict[str, Meaning] = {
    "ChunkedEncodingError": INVALID_HTTP,
    "ConnectTimeout": TIMEOUT,
    "ConnectionError": UNAVAILABLE,
    "ContentDecodingError": INVALID_HTTP,
    "HTTPError": UNAVAILABLE,
    "InvalidHeader": INVALID_LENGTH,
    "InvalidJSONError": INVALID_HTTP,
    "InvalidProxyURL": INVALID,
    "InvalidSchema": INVALID,
    "InvalidURL": INVALID,
    "JSONDecodeError": INVALID_HTTP,
    "MissingSchema": INVALID,
    "ProxyError": UNAVAILABLE,
    "ReadTimeout": TIMEOUT,
    "RequestException": UNAVAILABLE,
    "RetryError": UNAVAILABLE,
    "SSLError": INVALID_HTTP,
    "StreamConsumedError": UNAVAILABLE,
    "Timeout": TIMEOUT,
    "TooManyRedirects": REFUSED,
    "URLRequired": INVALID,
    "UnrewindableBodyError": UNAVAILABLE,
}
URLLIB3: dict[str, Meaning] = {
    "BodyNotHttplibCompatible": INVALID_HTTP,
    "ClosedPoolError": UNAVAILABLE,
    "ConnectTimeoutError": TIMEOUT,
    "DecodeError": INVALID_HTTP,
    "EmptyPoolError": UNAVAILABLE,
    "FullPoolError": UNAVAILABLE,
    "HTTPError": UNAVAILABLE,
    "HeaderParsingError": INVALID_HTTP,
    "HostChangedError": UNAVAILABLE,
    "IncompleteRead": INCOMPLETE,
    "InvalidChunkLength": INCOMPLETE,
    "InvalidHeader": INVALID_LENGTH,
    "LocationParseError": INVALID,
    "LocationValueError": INVALID,
    "MaxRetryError": UNAVAILABLE,
    "NameResolutionError": UNAVAILABLE,
    "NewConnectionError": UNAVAILABLE,
    "PoolError": UNAVAILABLE,
    "ProtocolError": UNAVAILABLE,
    "ProxyError": UNAVAILABLE,
    "ProxySchemeUnknown": INVALID,
    "ProxySchemeUnsupported": INVALID,
    "ReadTimeoutError": TIMEOUT,
    "RequestError": UNAVAILABLE,
    "ResponseError": UNAVAILABLE,
    "ResponseNotChunked": INVALID_HTTP,
    "SSLError": INVALID_HTTP,
    "TimeoutError": TIMEOUT,
    "TimeoutStateError": UNAVAILABLE,
    "URLSchemeUnknown": INVALID,
    "UnrewindableBodyError": UNAVAILABLE,
}
STANDARD: list[tuple[BaseException, Meaning]] = [
    (ConnectionRefusedError(111, "refused"), UNAVAILABLE),
    (ConnectionResetError(104, "reset"), UNAVAILABLE),
    (BrokenPipeError(32, "broken pipe"), UNAVAILABLE),
    (OSError(113, "no route to host"), UNAVAILABLE),
    (socket.gaierror(socket.EAI_NONAME, "unknown name"), NO_SUCH_NAME),
    (socket.gaierror(socket.EAI_NODATA, "no address"), NO_SUCH_NAME),
    (socket.gaierror(socket.EAI_AGAIN, "no answer from the resolver"), UNAVAILABLE),
    (TimeoutError("timed out"), TIMEOUT),
    (ssl.SSLCertVerificationError(1, "unknown authority"), REFUSED),
    (ssl.SSLEOFError(8, "eof"), UNAVAILABLE),
    (ssl.SSLError(1, "wrong version number"), INVALID_HTTP),
    (http.client.RemoteDisconnected("closed"), UNAVAILABLE),
    (http.client.BadStatusLine("SSH-2.0"), INVALID_HTTP),
    (http.client.LineTooLong("header line"), INVALID_HTTP),
    (http.client.IncompleteRead(b""), INCOMPLETE),
    (http.client.HTTPException("got more than 100 headers"), INVALID_HTTP),
    (UnicodeError("label too long"), INVALID),
    (ValueError("something else"), UNAVAILABLE),
]


def exceptions_of(module: ModuleType) -> dict[str, type[BaseException]]:
    return {
        name: member
        for name, member in inspect.getmembers(module, inspect.isclass)
        if issubclass(member, Exception) and not issubclass(member, Warning)
        # Without the classes that a module imports, and without aliases of its own.
        if (member.__module__, member.__name__) == (module.__name__, name)
    }


@pytest.mark.parametrize(("module", "table"), [(requests.exceptions, REQUESTS), (urllib3.exceptions, URLLIB3)])
def test_every_exception_class_has_a_translation(module: ModuleType, table: dict[str, Meaning]) -> None:
    classes = exceptions_of(module)
    assert classes.keys() == table.keys()
    # Without their arguments, which differ between classes: the class alone must be enough.
    translated = {name: meaning(kind.__new__(kind)) for name, kind in classes.items()}
    assert translated == table


def meaning(error: BaseException) -> Meaning:
    translated = translate_http_error(error, "the source")
    return translated.kind, translated.code


@pytest.mark.parametrize(("error", "expected"), STANDARD, ids=lambda item: type(item).__name__)
def test_exceptions_of_the_standard_library(error: BaseException, expected: Meaning) -> None:
    assert meaning(error) == expected
    for wrapped in wrappings(error):
        assert meaning(wrapped) == expected


def wrappings(error: BaseException) -> Iterator[BaseException]:
    """Yield the forms in which requests and urllib3 raise ``error``."""
    protocol = urllib3.exceptions.ProtocolError("Connection aborted.", error)
    yield protocol
    yield requests.exceptions.ConnectionError(protocol)
    chained = requests.exceptions.ConnectionError("text only")
    chained.__cause__ = error
    yield chained
    if isinstance(error, Exception):
        retried = urllib3.exceptions.MaxRetryError(None, "/", error)  # type: ignore[arg-type]
        yield requests.exceptions.ConnectionError(retried)


def test_context_of_an_exception_is_ignored() -> None:
    error = ConnectionResetError(104, "reset")
    error.__context__ = ssl.SSLCertVerificationError(1, "of the previous attempt")
    assert meaning(error) == UNAVAILABLE


def test_cyclic_exceptions() -> None:
    first, second = requests.exceptions.RequestException(), TimeoutError()
    first.args, second.args = (second,), (first,)
    assert meaning(first) == TIMEOUT


@pytest.fixture
def watchdog() -> Iterator[Watchdog]:
    with Watchdog("the source", total=60, stall=60, cancel=CancelToken()) as running:
        yield running


def test_secrets_in_library_texts_are_not_passed_on(watchdog: Watchdog, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(PipelineError) as caught, http_errors("the source", watchdog):
        raise requests.exceptions.ConnectionError("Max retries exceeded with url: /a?signature=secret")
    assert "secret" not in caught.value.message
    assert caught.value.__suppress_context__
    assert "secret" not in "".join(capfd.readouterr())


def test_verdict_of_the_watchdog_takes_precedence() -> None:
    """A connection that was shut down can look like a complete response, or like an error of the source."""
    token = CancelToken()
    token.cancel(ErrorCode.SHUTTING_DOWN)
    with Watchdog("the source", total=60, stall=60, cancel=token) as fired:
        with pytest.raises(CancelledError), http_errors("the source", fired):
            pass
        with pytest.raises(CancelledError), http_errors("the source", fired):
            raise ConnectionResetError


def test_pipeline_errors_pass_unchanged(watchdog: Watchdog) -> None:
    ours = PermanentError("no", code=ErrorCode.URL_FORBIDDEN)
    with pytest.raises(PermanentError) as caught, http_errors("the source", watchdog):
        raise ours
    assert caught.value is ours


def test_programming_errors_pass_unchanged(watchdog: Watchdog) -> None:
    with pytest.raises(KeyError), http_errors("the source", watchdog):
        raise KeyError("defect")
