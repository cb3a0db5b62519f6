"""TLS: verification by authorities, a minimum version, and pinned certificates."""

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
#: OpenSSL's reasons, on either side, for a handshake without a common version.
_NO_COMMON_VERSION = frozenset({"TLSV1_ALERT_PROTOCOL_VERSION", "UNSUPPORTED_PROTOCOL", "WRONG_SSL_VERSION"})


class _Context(ssl.SSLContext):
    """A context that can also wrap sockets that are encrypted already: those through a TLS proxy.

    The ``ssl`` module uses the descriptor of such a socket, and would bypass the outer layer.
    """

    def wrap_socket(self, sock: Any, *args: Any, **options: Any) -> ssl.SSLSocket:
        if isinstance(sock, ssl.SSLSocket):
            return cast(ssl.SSLSocket, SSLTransport(sock, self, options.get("server_hostname")))
        return super().wrap_socket(sock, *args, **options)


@functools.lru_cache(maxsize=8)
def client_context(ca_bundle: Path | None, minimum: TlsVersion) -> ssl.SSLContext:
    """Return the shared context for these arguments: loading the authorities takes time and memory."""
    context = _Context(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = _VERSIONS[minimum]
    context.hostname_checks_common_name = False
    context.load_verify_locations(cafile=str(ca_bundle or DEFAULT_CA_BUNDLE_PATH))
    return context


def check_pin(certificate: bytes | None, host: str, pins: Collection[str]) -> None:
    """Raise PermanentError (``source_refused``) unless ``certificate`` (DER) is one of those pinned for ``host``.

    ``pins``: SHA-256 of a certificate in hexadecimal. After ``host=`` it holds for that host (``.suffix=``: for every
    name under it); pins without a host hold for every host without its own. A host without pins passes.
    """
    pairs = [pin.rpartition("=") for pin in pins]
    own = {digest for name, _, digest in pairs if name == host or (name.startswith(".") and host.endswith(name))}
    expected = own or {digest for name, _, digest in pairs if not name}
    if expected and sha256(certificate or b"").hexdigest() not in expected:
        raise PermanentError(f"the certificate of {host} is not the one that is pinned", code=ErrorCode.SOURCE_REFUSED)


@contextmanager
def tls_handshake(host: str, minimum: TlsVersion) -> Iterator[None]:
    """Raise PermanentError (``source_refused``) if the block's handshake finds no common TLS version."""
    try:
        yield
    except ssl.SSLError as error:
        if error.reason not in _NO_COMMON_VERSION:
            raise
        raise PermanentError(f"{host} does not speak TLS {minimum} or newer", code=ErrorCode.SOURCE_REFUSED) from error
