"""TLS: verified by the authorities, of a minimum version, and with pinned certificates if that is asked for."""

from __future__ import annotations

import functools
import ssl
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, cast

from requests.utils import DEFAULT_CA_BUNDLE_PATH
from urllib3.util.ssltransport import SSLTransport

from pipeline.errors import ErrorCode, PermanentError

TlsVersion = Literal["1.2", "1.3"]

_VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
#: What OpenSSL calls it, on either side, when the two have no version in common.
_NO_COMMON_VERSION = frozenset({"TLSV1_ALERT_PROTOCOL_VERSION", "UNSUPPORTED_PROTOCOL", "WRONG_SSL_VERSION"})


class _Context(ssl.SSLContext):
    """Wraps sockets that are encrypted already, too: those that lead through a proxy that is itself spoken to by TLS.

    The ``ssl`` module takes the descriptor of such a socket and would talk TLS past the outer layer.
    """

    def wrap_socket(self, sock: Any, *args: Any, **options: Any) -> ssl.SSLSocket:
        if isinstance(sock, ssl.SSLSocket):
            return cast(ssl.SSLSocket, SSLTransport(sock, self, options.get("server_hostname")))
        return super().wrap_socket(sock, *args, **options)


@functools.lru_cache(maxsize=8)
def client_context(ca_bundle: Path | None, minimum: TlsVersion) -> ssl.SSLContext:
    """What connections are made with. One for all of them: reading the authorities takes time and memory."""
    context = _Context(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = _VERSIONS[minimum]
    context.hostname_checks_common_name = False
    context.load_verify_locations(cafile=str(ca_bundle or DEFAULT_CA_BUNDLE_PATH))
    return context


def check_pin(certificate: bytes | None, host: str, pins: Collection[str]) -> None:
    """Raise PermanentError (``source_refused``) unless ``certificate`` (DER) is one of those pinned for ``host``.

    ``pins``: SHA-256 of a certificate in hexadecimal; after ``host=`` it counts for that host (``.suffix=``: for every
    name under it), and pins without one for every host that has none of its own. Without any of either, all is well.
    """
    wanted = _pins_of(host, pins)
    if wanted and sha256(certificate or b"").hexdigest() not in wanted:
        raise PermanentError(f"the certificate of {host} is not the one that is pinned", code=ErrorCode.SOURCE_REFUSED)


def _pins_of(host: str, pins: Collection[str]) -> frozenset[str]:
    pairs = [pin.rpartition("=") for pin in pins]
    own = {digest for name, _, digest in pairs if name == host or (name.startswith(".") and host.endswith(name))}
    return frozenset(own or {digest for name, _, digest in pairs if not name})


@contextmanager
def handshake(host: str, minimum: TlsVersion) -> Iterator[None]:
    """Turn an error of the block's into PermanentError (``source_refused``) if ``host`` speaks no such TLS."""
    try:
        yield
    except ssl.SSLError as error:
        if error.reason not in _NO_COMMON_VERSION:
            raise
        raise PermanentError(f"{host} does not speak TLS {minimum} or newer", code=ErrorCode.SOURCE_REFUSED) from error
