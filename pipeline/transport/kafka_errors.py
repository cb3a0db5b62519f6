"""The boundary between kafka-python's exceptions and ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from kafka import errors as kafka_errors

from pipeline.errors import ErrorCode, InfrastructureError, PermanentError, PipelineError

#: Everything that a call of kafka-python may raise when nothing is wrong with our code.
CLIENT_ERRORS = (kafka_errors.KafkaError, OSError)

_TOO_LARGE = (kafka_errors.MessageSizeTooLargeError, kafka_errors.RecordListTooLargeError)
_REFUSED = (
    kafka_errors.SaslAuthenticationFailedError,
    kafka_errors.AuthorizationError,
    kafka_errors.UnsupportedSaslMechanismError,
)
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


def translate(error: Exception) -> PipelineError:
    """The classified form of what kafka-python raised.

    Raises ``error`` itself if it shows a defect: a mistake in how we call the client, or anything that no call of it is
    known to raise.
    """
    if isinstance(error, _DEFECTS) or not isinstance(error, CLIENT_ERRORS):
        raise error
    name = type(error).__name__
    if isinstance(error, _TOO_LARGE):
        return PermanentError("the message is larger than the broker takes", code=ErrorCode.MESSAGE_TOO_LARGE)
    if isinstance(error, _REFUSED):
        return InfrastructureError(
            f"the broker refuses this service ({name}): check its credentials and rights", code=ErrorCode.BROKER_REFUSED
        )
    if isinstance(error, _NO_ANSWER):
        return InfrastructureError(f"the broker does not answer ({name})", code=ErrorCode.BROKER_UNAVAILABLE)
    return InfrastructureError(f"the broker cannot do what was asked ({name})", code=ErrorCode.BROKER_UNAVAILABLE)


@contextmanager
def translated() -> Iterator[None]:
    """Turn exceptions of kafka-python and of its sockets into classified ones."""
    try:
        yield
    except CLIENT_ERRORS as error:
        raise translate(error) from error
