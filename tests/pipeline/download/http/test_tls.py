"""Authorities, pinned certificates and the minimum TLS version: every refusal precedes the first byte of a request."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
import requests
import trustme

from config import ConfigError, load
from pipeline.download import ConnectionOptions, UrlGuard, guarded_session
from pipeline.download.http.tls import TlsVersion, check_pin, client_context
from pipeline.errors import ErrorCode, PermanentError
from tests.pipeline.download.fetching import Fetcher
from tests.pipeline.download.network import PUBLIC, Detour, Names
from tests.support.source_server import SourceServer, redirect

SONG = b"a song"
OTHER = "0" * 64

Serve = Callable[..., SourceServer]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start servers, each with its certificate and newest TLS version."""
    with ExitStack() as stack:

        def serve(certificate: trustme.LeafCert, newest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> SourceServer:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            certificate.configure_cert(context)
            context.maximum_version = newest
            server = stack.enter_context(SourceServer(tls=context))
            server.serve_bytes("/song", SONG)
            return server

        yield serve


@pytest.fixture
def certificate(authority: trustme.CA) -> trustme.LeafCert:
    return authority.issue_cert("public.test", "cdn.public.test")


@pytest.fixture
def fetcher(tmp_path: Path) -> Fetcher:
    return Fetcher(
        tmp_path, UrlGuard(False, resolver=Names({"public.test": [[PUBLIC]], "cdn.public.test": [[PUBLIC]]}))
    )


def fingerprint(certificate: trustme.LeafCert) -> str:
    leaf = ssl.PEM_cert_to_DER_cert(certificate.cert_chain_pems[0].bytes().decode())
    return sha256(leaf).hexdigest()


@pytest.mark.parametrize("spelling", ["{}", "public.test={}", ".test={}"])
def test_pinned_certificate_is_accepted(
    spelling: str, serve: Serve, certificate: trustme.LeafCert, ca_bundle: Path, fetcher: Fetcher
) -> None:
    pins = frozenset({spelling.format(fingerprint(certificate)), f"other.test={OTHER}"})
    connection_options = ConnectionOptions(Detour({443: serve(certificate)}), ca_bundle, pins=pins)
    fetcher.fetch("https://public.test/song", connection_options=connection_options)


@pytest.mark.parametrize("pin", [OTHER, f"public.test={OTHER}", f".test={OTHER}"])
def test_other_certificates_are_refused(
    pin: str, serve: Serve, certificate: trustme.LeafCert, ca_bundle: Path, fetcher: Fetcher
) -> None:
    server = serve(certificate)
    connection_options = ConnectionOptions(Detour({443: server}), ca_bundle, pins=frozenset({pin}))
    error = fetcher.fail(
        "https://public.test/song", PermanentError, ErrorCode.SOURCE_REFUSED, connection_options=connection_options
    )
    assert error.message == "the certificate of public.test is not the one that is pinned"
    assert server.requests == []


def test_pins_do_not_replace_the_authorities(serve: Serve, ca_bundle: Path, fetcher: Fetcher) -> None:
    stranger = trustme.CA().issue_cert("public.test")
    connection_options = ConnectionOptions(
        Detour({443: serve(stranger)}), ca_bundle, pins=frozenset({fingerprint(stranger)})
    )
    fetcher.fail(
        "https://public.test/song", PermanentError, ErrorCode.SOURCE_REFUSED, connection_options=connection_options
    )


def test_pins_hold_after_a_redirect(
    serve: Serve, certificate: trustme.LeafCert, ca_bundle: Path, fetcher: Fetcher
) -> None:
    server = serve(certificate)
    server.add("/start", redirect("https://cdn.public.test/song"))
    pins = frozenset({fingerprint(certificate), f"cdn.public.test={OTHER}"})
    connection_options = ConnectionOptions(Detour({443: server}), ca_bundle, pins=pins)
    error = fetcher.fail(
        "https://public.test/start", PermanentError, ErrorCode.SOURCE_REFUSED, connection_options=connection_options
    )
    assert "cdn.public.test" in error.message
    assert [request.path for request in server.requests] == ["/start"]


def test_one_matching_pin_is_enough() -> None:
    digest = sha256(b"certificate").hexdigest()
    check_pin(b"certificate", "a.test", {f"a.test={OTHER}", f"a.test={digest}"})


def test_pins_of_a_host_replace_the_general_pins() -> None:
    digest = sha256(b"certificate").hexdigest()
    with pytest.raises(PermanentError):
        check_pin(b"certificate", "a.test", {digest, f"a.test={OTHER}"})
    check_pin(b"certificate", "b.test", {digest, f"a.test={OTHER}"})
    check_pin(b"anything", "b.test", {f"a.test={OTHER}"})


def test_missing_certificate_matches_no_pin() -> None:
    with pytest.raises(PermanentError):
        check_pin(None, "a.test", {OTHER})


@pytest.mark.parametrize(
    ("minimum", "newest", "accepted"),
    [
        ("1.2", ssl.TLSVersion.TLSv1_2, True),
        ("1.2", ssl.TLSVersion.TLSv1_3, True),
        ("1.3", ssl.TLSVersion.TLSv1_3, True),
        ("1.3", ssl.TLSVersion.TLSv1_2, False),
    ],
)
def test_minimum_version(
    minimum: TlsVersion,
    newest: ssl.TLSVersion,
    accepted: bool,
    serve: Serve,
    certificate: trustme.LeafCert,
    ca_bundle: Path,
    fetcher: Fetcher,
) -> None:
    server = serve(certificate, newest)
    connection_options = ConnectionOptions(Detour({443: server}), ca_bundle, minimum_tls=minimum)
    if accepted:
        fetcher.fetch("https://public.test/song", connection_options=connection_options)
        return
    error = fetcher.fail(
        "https://public.test/song", PermanentError, ErrorCode.SOURCE_REFUSED, connection_options=connection_options
    )
    assert "TLS 1.3" in error.message
    assert server.requests == []


def test_authorities_are_loaded_once(ca_bundle: Path) -> None:
    assert client_context(ca_bundle, "1.2") is client_context(ca_bundle, "1.2")
    assert client_context(None, "1.2") is not client_context(None, "1.3")


def test_verification_cannot_be_turned_off(serve: Serve, fetcher: Fetcher) -> None:
    server = serve(trustme.CA().issue_cert("public.test"))
    connection_options = ConnectionOptions(Detour({443: server}))
    with guarded_session(
        fetcher.guard, connect_timeout=5, read_timeout=5, connection_options=connection_options
    ) as session:
        session.verify = False
        with pytest.raises(requests.exceptions.SSLError, match="CERTIFICATE_VERIFY_FAILED"):
            session.get("https://public.test/song", verify=False)
    assert server.requests == []


@pytest.mark.parametrize("name", ["CA_BUNDLE", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_private_authority_of_the_settings_is_trusted(
    name: str, serve: Serve, certificate: trustme.LeafCert, ca_bundle: Path, fetcher: Fetcher
) -> None:
    settings = load(None, {name: str(ca_bundle)}).download
    for options in (ConnectionOptions.from_settings(settings), ConnectionOptions.for_webhooks(settings)):
        options = replace(options, dial=Detour({443: serve(certificate)}))
        assert fetcher.fetch("https://public.test/song", connection_options=options).bytes > 0


def test_own_setting_overrides_the_usual_variables(ca_bundle: Path) -> None:
    assert load(None, {"CA_BUNDLE": str(ca_bundle), "SSL_CERT_FILE": "/missing"}).download.ca_bundle == ca_bundle


def test_file_without_certificates_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "empty.pem").write_text("no certificate")
    for path in (tmp_path / "empty.pem", tmp_path / "missing.pem"):
        with pytest.raises(ConfigError, match="CA_BUNDLE: must be a file that can be read, with certificates"):
            load(None, {"SSL_CERT_FILE": str(path)})
