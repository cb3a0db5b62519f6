"""The boundary between kafka-python's exceptions and ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from kafka import errors as kafka_errors

from pipeline.errors import ErrorCode, InfrastructureError, PermanentError, PipelineError, RefusedError
from pipeline.transport.kafka.refusal import Attempt

#: Everything that a call of kafka-python may raise when nothing is wrong with our code.
CLIENT_ERRORS = (kafka_errors.KafkaError, OSError)

_TOO_LARGE = (kafka_errors.MessageSizeTooLargeError, kafka_errors.RecordListTooLargeError)
#: Mistakes in how we call the client: defects of ours, which no waiting mends.
_DEFECTS = (
    kafka_errors.KafkaConfigurationError,
    kafka_errors.IllegalArgumentError,
    kafka_errors.IllegalStateError,
)
#: Nobody has answered: the network, or a broker that is down or hangs.
_NO_ANSWER = (
    kafka_errors.KafkaTimeoutError,
    kafka_errors.KafkaConnectionError,
    kafka_errors.NodeNotReadyError,
    kafka_errors.RequestTimedOutError,
    kafka_errors.NetworkExceptionError,
    OSError,
)


class BrokerHungUp(kafka_errors.KafkaTimeoutError):  # type: ignore[misc]
    """Nobody has answered in time, although somebody was there, who hung up or spoke in riddles.

    So does a broker that starts or ends, a proxy in front of nothing, and a broker that is spoken to in plain text
    where it expects TLS, or the other way round.
    """


def translate_kafka_error(error: Exception) -> PipelineError:
    """The classified form of what kafka-python raised.

    Raises ``error`` itself if it shows a defect: a mistake in how we call the client, or anything that no call of it is
    known to raise.
    """
    if isinstance(error, _DEFECTS) or not isinstance(error, CLIENT_ERRORS):
        raise error
    name = type(error).__name__
    if isinstance(error, _TOO_LARGE):
        return PermanentError("the message is larger than the broker takes", code=ErrorCode.MESSAGE_TOO_LARGE)
    refusal = Attempt().refusal(error)
    if refusal is not None:
        return RefusedError(refusal.message, advice=refusal.advice)
    if isinstance(error, BrokerHungUp):
        return InfrastructureError(
            "the broker ends connections before it has answered: if that stays so, check KAFKA_SECURITY_PROTOCOL",
            code=ErrorCode.BROKER_UNAVAILABLE,
        )
    if isinstance(error, _NO_ANSWER):
        return InfrastructureError(f"the broker does not answer ({name})", code=ErrorCode.BROKER_UNAVAILABLE)
    return InfrastructureError(f"the broker cannot do what was asked ({name})", code=ErrorCode.BROKER_UNAVAILABLE)


@contextmanager
def translated_kafka_errors() -> Iterator[None]:
    """Turn exceptions of kafka-python and of its sockets into classified ones."""
    try:
        yield
    except CLIENT_ERRORS as error:
        raise translate_kafka_error(error) from error
