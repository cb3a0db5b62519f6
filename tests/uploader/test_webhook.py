"""The webhook client against a well-behaved receiver and against faulty ones."""

from __future__ import annotations

import base64
import json
import socket
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from pipeline.cancellation import CancelToken
from pipeline.download import UrlGuard
from pipeline.errors import CancelledError, ErrorCode, PermanentError, PipelineError, TransientError
from tests.support.webhook_receiver import Answer, Exchange, WebhookReceiver, status
from uploader.webhook import WebhookSender

OLD, NEW = (f"whsec_{base64.b64encode(bytes([byte]) * 32).decode()}" for byte in (1, 2))
LOOPBACK = UrlGuard(allow_private=True)
ID = "msg_0123456789abcdef"
BODY = json.dumps({"status": "success", "name": "Gäste"}).encode()
#: Long enough for a slow loopback connection, short enough to wait for.
SHORT = 1.0
#: A test that waits for this exceeds the time limit of the suite.
LONG = 300.0


@pytest.fixture
def receiver() -> Iterator[WebhookReceiver]:
    with WebhookReceiver() as receiver:
        yield receiver


def deliver(
    url: str, *secrets: str, timeout: float = LONG, guard: UrlGuard = LOOPBACK, cancel: CancelToken | None = None
) -> None:
    WebhookSender(guard, secrets, timeout).deliver(url, ID, BODY, cancel or CancelToken())


def failure_of(url: str, **options: Any) -> PipelineError:
    with pytest.raises(PipelineError) as caught:
        deliver(url, **options)
    return caught.value


def test_body_arrives_unchanged(receiver: WebhookReceiver) -> None:
    deliver(receiver.url)
    (request,) = receiver.received
    assert request.body == BODY
    assert request.headers["content-type"] == "application/json"
    assert request.headers["webhook-id"] == ID
    assert "webhook-signature" not in request.headers


@pytest.mark.parametrize("code", [200, 201, 202, 204, 299])
def test_every_2xx_counts_as_delivered(receiver: WebhookReceiver, code: int) -> None:
    receiver.answer(status(code, b""))
    deliver(receiver.url)


def test_signature_verifies(receiver: WebhookReceiver) -> None:
    deliver(receiver.url, NEW)
    (request,) = receiver.received
    assert Webhook(NEW).verify(request.body, dict(request.headers)) == json.loads(BODY)
    with pytest.raises(WebhookVerificationError):
        Webhook(OLD).verify(request.body, dict(request.headers))
    with pytest.raises(WebhookVerificationError):
        Webhook(NEW).verify(request.body + b" ", dict(request.headers))


def test_both_secrets_verify_during_a_rotation(receiver: WebhookReceiver) -> None:
    deliver(receiver.url, OLD, NEW)
    (request,) = receiver.received
    assert len(request.headers["webhook-signature"].split(" ")) == 2
    for secret in (OLD, NEW):
        Webhook(secret).verify(request.body, dict(request.headers))


def test_id_is_constant_and_timestamp_is_that_of_the_attempt(receiver: WebhookReceiver) -> None:
    began = int(datetime.now(UTC).timestamp())
    for _ in range(2):
        deliver(receiver.url)
    ended = datetime.now(UTC).timestamp()
    assert [request.headers["webhook-id"] for request in receiver.received] == [ID, ID]
    for request in receiver.received:
        assert began <= int(request.headers["webhook-timestamp"]) <= ended


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_no_redirect_is_followed(receiver: WebhookReceiver, code: int) -> None:
    with WebhookReceiver() as elsewhere:
        receiver.answer(status(code, Location=elsewhere.url))
        assert failure_of(receiver.url).code is ErrorCode.WEBHOOK_FAILED
        assert len(receiver.received) == 1
        assert elsewhere.received == []


@pytest.mark.parametrize("code", [400, 401, 404, 408, 418, 429, 500, 502, 503])
def test_other_responses_are_transient(receiver: WebhookReceiver, code: int) -> None:
    receiver.answer(code)
    error = failure_of(receiver.url)
    assert isinstance(error, TransientError)
    assert error.code is ErrorCode.WEBHOOK_FAILED
    assert error.message == f"the webhook's receiver answered {code}"
    assert error.retry_after is None


def test_410_is_permanent(receiver: WebhookReceiver) -> None:
    receiver.answer(410)
    error = failure_of(receiver.url)
    assert isinstance(error, PermanentError)
    assert error.code is ErrorCode.WEBHOOK_GONE


@pytest.mark.parametrize(("code", "delay"), [(429, 7.0), (503, 7.0), (500, None)])
def test_retry_after_of_an_overloaded_receiver(receiver: WebhookReceiver, code: int, delay: float | None) -> None:
    receiver.answer(status(code, Retry_After="7"))
    error = failure_of(receiver.url)
    assert isinstance(error, TransientError)
    assert error.retry_after == delay


def test_retry_after_as_a_date(receiver: WebhookReceiver) -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(minutes=30), usegmt=True)
    receiver.answer(status(503, Retry_After=date))
    error = failure_of(receiver.url)
    assert isinstance(error, TransientError)
    assert error.retry_after is not None
    assert 1700 < error.retry_after <= 1800


def never_respond(exchange: Exchange) -> None:
    exchange.wait_for_the_end()


def drip_headers(exchange: Exchange) -> None:
    exchange.send(b"HTTP/1.1 200 OK\r\n")
    exchange.drip(b"X-Padding: 1\r\n", 0.05)


def drip_continues(exchange: Exchange) -> None:
    exchange.drip(b"HTTP/1.1 100 Continue\r\n\r\n", 0.01)


def respond_with_invalid_data(exchange: Exchange) -> None:
    exchange.send(b"220 mail.example.com ESMTP\r\n")


def close_connection(exchange: Exchange) -> None:
    pass


BROKEN: dict[str, Answer] = {
    "silent": never_respond,
    "dripping headers": drip_headers,
    "dripping 100 Continue": drip_continues,
    "invalid data": respond_with_invalid_data,
    "closing": close_connection,
    "reset": Exchange.reset,
}


@pytest.mark.parametrize("behaviour", BROKEN)
def test_faulty_receiver_is_transient_within_the_timeout(receiver: WebhookReceiver, behaviour: str) -> None:
    receiver.answer(BROKEN[behaviour])
    error = failure_of(receiver.url, timeout=SHORT)
    assert isinstance(error, TransientError)
    assert error.code is ErrorCode.WEBHOOK_FAILED
    assert error.message.startswith("the webhook's receiver ")
    assert str(receiver.port) not in error.message


def test_receiver_that_is_down_is_transient(receiver: WebhookReceiver) -> None:
    receiver.stop()
    assert failure_of(receiver.url).code is ErrorCode.WEBHOOK_FAILED
    receiver.start()
    deliver(receiver.url)
    assert len(receiver.received) == 1


def test_interim_responses_and_many_headers_do_not_fail_a_delivery(receiver: WebhookReceiver) -> None:
    def hint(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
        traces = b"".join(b"X-Trace-%d: 1\r\n" % number for number in range(300))
        exchange.send(b"HTTP/1.1 200 OK\r\n" + traces + b"Content-Length: 0\r\n\r\n")

    receiver.answer(hint)
    deliver(receiver.url)
    assert len(receiver.received) == 1


def test_endless_response_is_not_read_to_its_end(receiver: WebhookReceiver) -> None:
    def endless(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 200 OK\r\n\r\n")
        while not exchange.stopping.is_set():
            exchange.send(b"x" * 65536)

    receiver.answer(endless)
    deliver(receiver.url)


def test_status_counts_although_the_body_is_slow(receiver: WebhookReceiver) -> None:
    def drip_body(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
        exchange.drip(b"x", 0.05)

    receiver.answer(drip_body)
    deliver(receiver.url, timeout=SHORT)


def test_cancelled_job_does_not_wait_for_the_receiver(receiver: WebhookReceiver) -> None:
    cancel = CancelToken()

    def cancel_and_never_respond(exchange: Exchange) -> None:
        threading.Thread(target=cancel.cancel, args=(ErrorCode.DELIVERY_LOST,)).start()
        exchange.wait_for_the_end()

    receiver.answer(cancel_and_never_respond)
    with pytest.raises(CancelledError):
        deliver(receiver.url, cancel=cancel)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
def test_forbidden_address_is_never_called(receiver: WebhookReceiver, host: str) -> None:
    error = failure_of(receiver.url.replace("127.0.0.1", host), guard=UrlGuard(allow_private=False))
    assert isinstance(error, PermanentError)
    assert error.code is ErrorCode.URL_FORBIDDEN
    assert receiver.received == []


def test_invalid_url_is_permanent() -> None:
    error = failure_of("http://user:password@127.0.0.1/hook")
    assert isinstance(error, PermanentError)
    assert error.code is ErrorCode.URL_INVALID


def test_unresolvable_name_is_transient() -> None:
    def resolve(*_: object, **__: object) -> list[tuple[Any, ...]]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    guard = UrlGuard(allow_private=False, resolver=resolve)
    assert failure_of("https://hooks.example.com/", guard=guard).code is ErrorCode.WEBHOOK_FAILED


def test_tls_failure_is_transient(receiver: WebhookReceiver) -> None:
    error = failure_of(receiver.url.replace("http:", "https:"), timeout=SHORT)
    assert isinstance(error, TransientError)
    assert error.code is ErrorCode.WEBHOOK_FAILED
