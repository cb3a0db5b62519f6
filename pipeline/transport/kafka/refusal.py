"""Detection of refusals: a broker that rejects this service, or whose certificate this service rejects.

A retry does not fix a refusal, so it is distinguished from an outage. A connection that was cut, rejected by the
network or never answered is not a refusal, whatever its cause may be.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterable, Mapping
from typing import Any

from kafka import errors as kafka_errors

#: Exceptions of kafka-python that are refusals, the message that anyone may see, and the advice for the operator.
_REFUSALS: tuple[tuple[type[Exception], str, str], ...] = (
    (
        kafka_errors.SaslAuthenticationFailedError,
        "the broker rejected the user name or the password of this service",
        "{broker} rejected {login}: check KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD, and that the broker knows the "
        "user for this mechanism",
    ),
    (
        kafka_errors.UnsupportedSaslMechanismError,
        "the broker does not support the login mechanism of this service",
        "{broker} rejected {login}, because it does not support this mechanism: check KAFKA_SASL_MECHANISM",
    ),
    (
        kafka_errors.IllegalSaslStateError,
        "the broker does not accept logins at this address",
        "{broker} does not accept logins with a password: check KAFKA_SECURITY_PROTOCOL, and the port in "
        "KAFKA_BOOTSTRAP_SERVERS",
    ),
)
#: The resources of access control lists, by the exception that names them.
_RESOURCES = {
    kafka_errors.TopicAuthorizationFailedError: "topic",
    kafka_errors.GroupAuthorizationFailedError: "group",
}
#: OpenSSL's reasons for alerts with which a broker rejects the client's certificate.
_CERTIFICATE_ALERTS = ("CERTIFICATE", "UNKNOWN_CA", "ACCESS_DENIED")
#: Reasons for alerts of a broker that has no TLS version or cipher in common with the client.
_TLS_ALERTS = ("HANDSHAKE_FAILURE", "PROTOCOL_VERSION", "INSUFFICIENT_SECURITY")
#: X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH (OpenSSL's x509_vfy.h)
_NAME_MISMATCH = (62, 64)


class BrokerRefusedError(kafka_errors.KafkaError):  # type: ignore[misc]
    """A refusal.

    ``message`` may be shown to anyone; ``advice`` names the broker, the user and the settings to check.
    """

    def __init__(self, message: str, advice: str) -> None:
        super().__init__(message)
        self.message = message
        self.advice = advice


def refusal_from(
    error: BaseException | None, broker: str = "the broker", login: str = "this service", topic_right: str = "a right"
) -> BrokerRefusedError | None:
    """Return the refusal that an exception of kafka-python shows; None if a retry may help.

    ``broker`` and ``login`` describe the connection in the advice, and ``topic_right`` what the client does with
    topics, as far as they are known.
    """
    if isinstance(error, BrokerRefusedError):
        return error
    if isinstance(error, kafka_errors.AuthorizationError):
        return right_missing([_missing_right(error, topic_right)], broker, login)
    for kind, message, advice in _REFUSALS:
        if isinstance(error, kind):
            return BrokerRefusedError(message, advice.format(broker=broker, login=login, error=error))
    if not isinstance(error, kafka_errors.KafkaConnectionError):
        return None
    # kafka-python wraps a TLS error of a handshake as the context, and one of a read as an argument.
    wrapped = (error.__context__, *error.args)
    tls_error = next((candidate for candidate in wrapped if isinstance(candidate, ssl.SSLError)), None)
    return None if tls_error is None else _tls_refusal(tls_error, broker)


def right_missing(rights: Iterable[str], broker: str, login: str) -> BrokerRefusedError:
    """Return the refusal of a broker whose access control lists do not grant ``rights`` ("READ on the topic x")."""
    return BrokerRefusedError(
        "the broker does not grant a permission that this service needs",
        f"{broker} does not grant {login} {', '.join(rights)}: change its access control lists "
        "(python -m deploy.kafka_acls prints the commands)",
    )


def _missing_right(error: kafka_errors.AuthorizationError, topic_right: str) -> str:
    """Return the right in words. kafka-python names the topics as a set or as a text."""
    resource = _RESOURCES.get(type(error))
    if resource is None or not error.args:
        return f"a permission that it needs ({error})"
    names = error.args[0]
    listed = ", ".join(sorted(names)) if isinstance(names, set | frozenset) else str(names)
    return f"{topic_right if resource == 'topic' else 'READ'} on the {resource} {listed}"


def describe_login(settings: Mapping[str, Any]) -> str:
    """Return the login of a client with these ``settings`` of kafka-python, in words, without the password."""
    user, mechanism = settings["sasl_plain_username"], settings["sasl_mechanism"]
    return f"the user {user!r} with {mechanism}" if mechanism else "this service"


def _tls_refusal(error: ssl.SSLError, broker: str) -> BrokerRefusedError | None:
    if isinstance(error, ssl.SSLCertVerificationError):
        check = "KAFKA_SSL_CA_FILE"
        if error.verify_code in _NAME_MISMATCH:
            check = "KAFKA_BOOTSTRAP_SERVERS, the broker's advertised.listeners, or KAFKA_SSL_CHECK_HOSTNAME"
        cause = error.verify_message.rstrip(".")
        return BrokerRefusedError(
            "the certificate of the broker is not trusted",
            f"the certificate of {broker} is not trusted ({cause}): check {check}",
        )
    reason = getattr(error, "reason", None) or ""
    if "ALERT" not in reason:
        return None
    if any(alert in reason for alert in _CERTIFICATE_ALERTS):
        return BrokerRefusedError(
            "the broker does not accept the certificate of this service",
            f"{broker} does not accept the certificate of this service, or requires one ({reason}): check "
            "KAFKA_SSL_CERT_FILE and KAFKA_SSL_KEY_FILE",
        )
    if any(alert in reason for alert in _TLS_ALERTS):
        return BrokerRefusedError(
            "the broker and this service have no TLS version in common",
            f"{broker} rejected TLS 1.2 and 1.3 ({reason}): check its ssl.enabled.protocols",
        )
    return None
