"""When a broker answers and turns this service away, or shows a certificate that nobody vouches for.

Waiting mends none of that, so it is told apart from a broker that is merely away: a connection that was cut, refused
or never answered is no refusal, whatever the reason may turn out to be.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass

from kafka import errors as kafka_errors

#: Errors of kafka-python that are refusals, what everybody may know of them, and what an operator should.
_REFUSALS: tuple[tuple[type[Exception], str, str], ...] = (
    (
        kafka_errors.SaslAuthenticationFailedError,
        "the broker refuses the user name or the password of this service",
        "{broker} refuses {login}: check KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD, and that the broker knows the "
        "user for this mechanism",
    ),
    (
        kafka_errors.UnsupportedSaslMechanismError,
        "the broker does not offer the way in which this service logs in",
        "{broker} does not let in {login}, since it does not offer this mechanism: check KAFKA_SASL_MECHANISM",
    ),
    (
        kafka_errors.IllegalSaslStateError,
        "the broker lets nobody log in where this service tries to",
        "{broker} lets nobody log in with a password there: check KAFKA_SECURITY_PROTOCOL, and the port in "
        "KAFKA_BOOTSTRAP_SERVERS",
    ),
    (
        kafka_errors.AuthorizationError,
        "the broker does not grant this service a right that it needs",
        "{broker} does not grant {login} a right that it needs ({error}): check the access control lists",
    ),
)
#: What a broker says about a client's certificate that it does not take, in the names of OpenSSL's reasons.
_CERTIFICATE_ALERTS = ("CERTIFICATE", "UNKNOWN_CA", "ACCESS_DENIED")
#: What a broker says that has no version or cipher in common with the client.
_TLS_ALERTS = ("HANDSHAKE_FAILURE", "PROTOCOL_VERSION", "INSUFFICIENT_SECURITY")
#: X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH (OpenSSL's x509_vfy.h)
_OTHER_NAME = (62, 64)


class RefusedByBroker(kafka_errors.KafkaError):  # type: ignore[misc]
    """``message`` may be shown to anybody; ``advice`` names the broker, the user and what to check."""

    def __init__(self, message: str, advice: str) -> None:
        super().__init__(message)
        self.message = message
        self.advice = advice


@dataclass(frozen=True, slots=True)
class Attempt:
    """Who tried to connect where, as far as it is known."""

    broker: str = "the broker"
    login: str = "this service"

    def refusal(self, error: BaseException | None) -> RefusedByBroker | None:
        """What ``error``, raised by kafka-python, says for good; None if trying again may help."""
        if isinstance(error, RefusedByBroker):
            return error
        for kind, message, advice in _REFUSALS:
            if isinstance(error, kind):
                facts = {"broker": self.broker, "login": self.login, "error": error}
                return RefusedByBroker(message, advice.format_map(facts))
        return self._tls_refusal(_tls_error(error))

    def _tls_refusal(self, error: ssl.SSLError | None) -> RefusedByBroker | None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return self._distrust(error)
        reason = getattr(error, "reason", None) or ""
        if "ALERT" not in reason:
            return None
        if any(alert in reason for alert in _CERTIFICATE_ALERTS):
            return RefusedByBroker(
                "the broker does not accept the certificate of this service",
                f"{self.broker} does not accept the certificate of this service, or misses it ({reason}): check "
                "KAFKA_SSL_CERT_FILE and KAFKA_SSL_KEY_FILE",
            )
        if any(alert in reason for alert in _TLS_ALERTS):
            return RefusedByBroker(
                "the broker and this service have no version of TLS in common",
                f"{self.broker} turns TLS 1.2 and 1.3 down ({reason}): check its ssl.enabled.protocols",
            )
        return None

    def _distrust(self, error: ssl.SSLCertVerificationError) -> RefusedByBroker:
        if error.verify_code in _OTHER_NAME:
            check = "KAFKA_BOOTSTRAP_SERVERS, the broker's advertised.listeners, or KAFKA_SSL_CHECK_HOSTNAME"
        else:
            check = "KAFKA_SSL_CA_FILE"
        why = error.verify_message.rstrip(".")
        return RefusedByBroker(
            "the certificate of the broker is not to be trusted",
            f"the certificate of {self.broker} is not to be trusted ({why}): check {check}",
        )


def _tls_error(error: BaseException | None) -> ssl.SSLError | None:
    """The error of TLS that kafka-python has wrapped: around a handshake as a context, around a read as an argument."""
    if not isinstance(error, kafka_errors.KafkaConnectionError):
        return None
    candidates = (error.__context__, *error.args)
    return next((candidate for candidate in candidates if isinstance(candidate, ssl.SSLError)), None)
