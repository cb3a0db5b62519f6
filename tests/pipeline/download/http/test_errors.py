"""No exception of the HTTP libraries gets past the boundary, and each means something definite."""

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
GARBLED = (TRANSIENT, ErrorCode.SOURCE_PROTOCOL)
CONTRADICTORY = (PERMANENT, ErrorCode.SOURCE_PROTOCOL)
REFUSED = (PERMANENT, ErrorCode.SOURCE_REFUSED)
INVALID = (PERMANENT, ErrorCode.URL_INVALID)

Meaning = tuple[ErrorKind, ErrorCode]

#: Every exception class of the two libraries. A release that adds one fails the test below until it is placed.
REQUESTS: dict[str, Meaning] = {
    "ChunkedEncodingError": GARBLED,
    "ConnectTimeout": TIMEOUT,
    "ConnectionError": UNAVAILABLE,
    "ContentDecodingError": GARBLED,
    "HTTPError": UNAVAILABLE,
    "InvalidHeader": CONTRADICTORY,
    "InvalidJSONError": GARBLED,
    "InvalidProxyURL": INVALID,
    "InvalidSchema": INVALID,
    "InvalidURL": INVALID,
    "JSONDecodeError": GARBLED,
    "MissingSchema": INVALID,
    "ProxyError": UNAVAILABLE,
    "ReadTimeout": TIMEOUT,
    "RequestException": UNAVAILABLE,
    "RetryError": UNAVAILABLE,
    "SSLError": GARBLED,
    "StreamConsumedError": UNAVAILABLE,
    "Timeout": TIMEOUT,
    "TooManyRedirects": REFUSED,
    "URLRequired": INVALID,
    "UnrewindableBodyError": UNAVAILABLE,
}
URLLIB3: dict[str, Meaning] = {
    "BodyNotHttplibCompatible": GARBLED,
    "ClosedPoolError": UNAVAILABLE,
    "ConnectTimeoutError": TIMEOUT,
    "DecodeError": GARBLED,
    "EmptyPoolError": UNAVAILABLE,
    "FullPoolError": UNAVAILABLE,
    "HTTPError": UNAVAILABLE,
    "HeaderParsingError": GARBLED,
    "HostChangedError": UNAVAILABLE,
    "IncompleteRead": INCOMPLETE,
    "InvalidChunkLength": INCOMPLETE,
    "InvalidHeader": CONTRADICTORY,
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
    "ResponseNotChunked": GARBLED,
    "SSLError": GARBLED,
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
    (socket.gaierror(socket.EAI_NONAME, "unknown name"), UNAVAILABLE),
    (TimeoutError("timed out"), TIMEOUT),
    (ssl.SSLCertVerificationError(1, "unknown authority"), REFUSED),
    (ssl.SSLEOFError(8, "eof"), UNAVAILABLE),
    (ssl.SSLError(1, "wrong version number"), GARBLED),
    (http.client.RemoteDisconnected("closed"), UNAVAILABLE),
    (http.client.BadStatusLine("SSH-2.0"), GARBLED),
    (http.client.LineTooLong("header line"), GARBLED),
    (http.client.IncompleteRead(b""), INCOMPLETE),
    (http.client.HTTPException("got more than 100 headers"), GARBLED),
    (UnicodeError("label too long"), INVALID),
    (ValueError("something else"), UNAVAILABLE),
]


def exceptions_of(module: ModuleType) -> dict[str, type[BaseException]]:
    return {
        name: member
        for name, member in inspect.getmembers(module, inspect.isclass)
        if issubclass(member, Exception) and not issubclass(member, Warning)
        # Not the classes that a module imports, nor the second names that it gives to its own.
        if (member.__module__, member.__name__) == (module.__name__, name)
    }


@pytest.mark.parametrize(("module", "table"), [(requests.exceptions, REQUESTS), (urllib3.exceptions, URLLIB3)])
def test_every_exception_class_is_placed(module: ModuleType, table: dict[str, Meaning]) -> None:
    classes = exceptions_of(module)
    assert classes.keys() == table.keys()
    # Made without their arguments, which differ from class to class: the kind alone must be enough.
    placed = {name: meaning(kind.__new__(kind)) for name, kind in classes.items()}
    assert placed == table


def meaning(error: BaseException) -> Meaning:
    translation = translate_http_error(error, "the source")
    return translation.kind, translation.code


@pytest.mark.parametrize(("error", "expected"), STANDARD, ids=lambda item: type(item).__name__)
def test_exceptions_of_the_standard_library(error: BaseException, expected: Meaning) -> None:
    assert meaning(error) == expected
    for wrapped in wrappings(error):
        assert meaning(wrapped) == expected


def wrappings(error: BaseException) -> Iterator[BaseException]:
    """As requests and urllib3 hand it on."""
    protocol = urllib3.exceptions.ProtocolError("Connection aborted.", error)
    yield protocol
    yield requests.exceptions.ConnectionError(protocol)
    chained = requests.exceptions.ConnectionError("text only")
    chained.__cause__ = error
    yield chained
    if isinstance(error, Exception):
        retried = urllib3.exceptions.MaxRetryError(None, "/", error)  # type: ignore[arg-type]
        yield requests.exceptions.ConnectionError(retried)


def test_what_the_caller_was_handling_does_not_count() -> None:
    error = ConnectionResetError(104, "reset")
    error.__context__ = ssl.SSLCertVerificationError(1, "of the try before")
    assert meaning(error) == UNAVAILABLE


def test_exceptions_that_contain_each_other() -> None:
    first, second = requests.exceptions.RequestException(), TimeoutError()
    first.args, second.args = (second,), (first,)
    assert meaning(first) == TIMEOUT


@pytest.fixture
def watchdog() -> Iterator[Watchdog]:
    with Watchdog("the source", total=60, stall=60, cancel=CancelToken()) as running:
        yield running


def test_the_secrets_in_the_librarys_text_stay_behind(watchdog: Watchdog, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(PipelineError) as caught, http_errors("the source", watchdog):
        raise requests.exceptions.ConnectionError("Max retries exceeded with url: /a?signature=secret")
    assert "secret" not in caught.value.message
    assert caught.value.__suppress_context__
    assert "secret" not in "".join(capfd.readouterr())


def test_what_ended_the_exchange_outweighs_how_it_looks() -> None:
    """A connection that was shut down can look like an answer that is complete, or like a fault of the source."""
    token = CancelToken()
    token.cancel(ErrorCode.SHUTTING_DOWN)
    with Watchdog("the source", total=60, stall=60, cancel=token) as fired:
        with pytest.raises(CancelledError), http_errors("the source", fired):
            pass
        with pytest.raises(CancelledError), http_errors("the source", fired):
            raise ConnectionResetError


def test_our_own_errors_pass_unchanged(watchdog: Watchdog) -> None:
    ours = PermanentError("no", code=ErrorCode.URL_FORBIDDEN)
    with pytest.raises(PermanentError) as caught, http_errors("the source", watchdog):
        raise ours
    assert caught.value is ours


def test_defects_are_not_taken_for_the_sources(watchdog: Watchdog) -> None:
    with pytest.raises(KeyError), http_errors("the source", watchdog):
        raise KeyError("defect")
