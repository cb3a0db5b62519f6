"""Translation of kafka-python's exceptions to the service's own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from kafka import errors as kafka_errors

from pipeline.errors import ErrorCode, InfrastructureError, PermanentError, PipelineError, RefusedError
from pipeline.transport.kafka.refusal import refusal_from

#: All exceptions that a call of kafka-python may raise if this code has no defect.
CLIENT_ERRORS = (kafka_errors.KafkaError, OSError)

_TOO_LARGE = (kafka_errors.MessageSizeTooLargeError, kafka_errors.RecordListTooLargeError)
#: Incorrect calls of the client: defects of this service, which a retry cannot fix.
_DEFECTS = (
    kafka_errors.KafkaConfigurationError,
    kafka_errors.IllegalArgumentError,
    kafka_errors.IllegalStateError,
)
#: No response: a network failure, or a broker that is down or hangs.
_NO_RESPONSE = (
    kafka_errors.KafkaTimeoutError,
    kafka_errors.KafkaConnectionError,
    kafka_errors.NodeNotReadyError,
    kafka_errors.RequestTimedOutError,
    kafka_errors.NetworkExceptionError,
    OSError,
)


class BrokerUnreachableError(kafka_errors.KafkaTimeoutError):  # type: ignore[misc]
    """No connection to a broker could be opened until the timeout. The message is the reason, in words."""


class BrokerDisconnectedError(kafka_errors.KafkaTimeoutError):  # type: ignore[misc]
    """The broker accepted the connection, then closed it or replied with invalid data, until the timeout.

    Possible causes: a broker that is starting or stopping, a proxy without a backend, or a broker that expects TLS
    where the client uses plain text, or the other way round.
    """


def translate_kafka_error(error: Exception) -> PipelineError:
    """Return the classified form of an exception of kafka-python.

    Raises ``error`` itself if it shows a defect: an incorrect call of the client, or an exception that none of its
    calls is known to raise.
    """
    if isinstance(error, _DEFECTS) or not isinstance(error, CLIENT_ERRORS):
        raise error
    name = type(error).__name__
    if isinstance(error, _TOO_LARGE):
        return PermanentError("the message is larger than the broker accepts", code=ErrorCode.MESSAGE_TOO_LARGE)
    refusal = refusal_from(error)
    if refusal is not None:
        return RefusedError(refusal.message, advice=refusal.advice)
    if isinstance(error, BrokerDisconnectedError):
        return InfrastructureError(
            "the broker closes connections before it answers: if this persists, check KAFKA_SECURITY_PROTOCOL",
            code=ErrorCode.BROKER_UNAVAILABLE,
        )
    if isinstance(error, kafka_errors.UnknownTopicOrPartitionError):
        return InfrastructureError(
            "the broker does not know a topic of this service", code=ErrorCode.BROKER_UNAVAILABLE
        )
    if isinstance(error, _NO_RESPONSE):
        reason = error.args[0] if isinstance(error, BrokerUnreachableError) else name
        return InfrastructureError(f"the broker does not answer ({reason})", code=ErrorCode.BROKER_UNAVAILABLE)
    return InfrastructureError(f"the broker cannot execute the request ({name})", code=ErrorCode.BROKER_UNAVAILABLE)


@contextmanager
def translated_kafka_errors() -> Iterator[None]:
    """Raise exceptions of kafka-python and of its sockets in their classified form."""
    try:
        yield
    except CLIENT_ERRORS as error:
        raise translate_kafka_error(error) from error
