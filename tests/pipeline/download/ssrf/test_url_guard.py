"""The URLs that the guard refuses and accepts, and its uniform error."""

from __future__ import annotations

import socket
import threading
from typing import Any

import pytest

from config import DownloadSettings
from pipeline.download.ssrf.url_guard import FORBIDDEN, ForbiddenUrlError, UnknownHostError, UrlGuard
from pipeline.errors import ErrorCode, PermanentError, TransientError
from tests.pipeline.download.network import PUBLIC, Names


def guard(allow_private: bool = False, **names: list[list[str]]) -> UrlGuard:
    table = {f"{name}.test": answers for name, answers in names.items()}
    return UrlGuard(allow_private, resolver=Names({**table, "localhost": [["127.0.0.1"]], "nas": [["192.168.1.9"]]}))


def assert_forbidden(subject: UrlGuard, url: str) -> None:
    with pytest.raises(PermanentError) as caught:
        subject.check(url)
    assert caught.value.code is ErrorCode.URL_FORBIDDEN
    assert caught.value.message == FORBIDDEN


def test_public_name_is_accepted() -> None:
    parsed = guard(public=[[PUBLIC]]).check("https://public.test/a.wav?x=1")
    assert (parsed.host, parsed.port, parsed.target) == ("public.test", 443, "/a.wav?x=1")


@pytest.mark.parametrize(
    "url",
    [
        "http://10.0.0.1/",
        "http://10.0.0.1:22/",
        "http://inside.test/",
        "http://public.test:22/",
        "http://localhost/",
        "http://mixed.test/",
        "http://nas/",
        "http://db.internal/",
        "http://[::1]/",
        "http://169.254.169.254/",
    ],
)
def test_every_refusal_has_the_same_sentence(url: str) -> None:
    assert_forbidden(guard(public=[[PUBLIC]], inside=[["10.0.0.1"]], mixed=[[PUBLIC, "10.0.0.1"]]), url)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:8000/",
        "http://[::1]:1/",
        "http://10.1.2.3/",
        "http://192.168.0.1/",
        "http://172.20.0.1/",
        "http://100.64.0.1/",
        "http://[fd12::1]/",
        "http://localhost:9000/",
        "http://nas/",
        "http://public.test:22/",
    ],
)
def test_private_networks_can_be_allowed(url: str) -> None:
    guard(allow_private=True, public=[[PUBLIC]]).check(url)


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/",
        "http://[fd00:ec2::254]/",
        "http://168.63.129.16/",
        "http://100.100.100.200/",
        "http://224.0.0.1/",
        "http://0.0.0.0/",
        "http://[::]/",
        "http://255.255.255.255/",
        "http://240.0.0.1/",
        "http://[fe80::1]/",
        "http://[::ffff:127.0.0.1]/",
        "http://metadata.test/",
    ],
)
def test_metadata_and_reserved_addresses_stay_closed(url: str) -> None:
    assert_forbidden(guard(allow_private=True, metadata=[["169.254.169.254"]]), url)


def test_ports_can_be_added() -> None:
    names = Names({"public.test": [[PUBLIC]]})
    UrlGuard(False, (80, 443, 8443), resolver=names).check("https://public.test:8443/")
    with pytest.raises(PermanentError):
        UrlGuard(False, (443,), resolver=names).check("http://public.test/")


def test_refused_names_are_not_resolved() -> None:
    names = Names({})
    for url in ("http://nas/", "http://db.internal/", "http://public.test:22/", "http://u@public.test/"):
        with pytest.raises(PermanentError):
            UrlGuard(False, resolver=names).check(url)
    assert names.asked == []


@pytest.mark.parametrize("answers", [None, [[]]])
def test_name_without_addresses_is_a_transient_error(answers: list[list[str]] | None) -> None:
    subject = guard(unknown=answers) if answers else guard()
    with pytest.raises(TransientError) as caught:
        subject.check("http://unknown.test/")
    assert caught.value.code is ErrorCode.SOURCE_UNAVAILABLE


def test_unknown_name_differs_from_one_that_cannot_be_resolved_now() -> None:
    def unavailable(*_: object, **__: object) -> list[tuple[object, ...]]:
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    with pytest.raises(UnknownHostError):
        guard().check("http://unknown.test/")
    with pytest.raises(TransientError) as caught:
        UrlGuard(False, resolver=unavailable).check("http://unknown.test/")
    assert not isinstance(caught.value, UnknownHostError)


@pytest.mark.parametrize(
    ("url", "rule"),
    [
        ("http://public.test:22/", "the port is not in URL_ALLOW_PORTS"),
        ("http://nas/", "the host is in URL_DENY_HOSTS, not in URL_ALLOW_HOSTS, or a local name"),
        ("http://10.0.0.1/", "an address of the host is private, reserved or in URL_DENY_NETWORKS"),
    ],
)
def test_the_rule_is_known_to_the_operator_only(url: str, rule: str) -> None:
    with pytest.raises(ForbiddenUrlError) as caught:
        guard().check(url)
    assert (caught.value.rule, caught.value.message) == (rule, FORBIDDEN)


def test_hanging_dns_does_not_block_the_check() -> None:
    released = threading.Event()
    hanging = UrlGuard(False, resolver=lambda *_, **__: [()] * released.wait(20), resolve_timeout=0.1)
    with pytest.raises(TransientError):
        hanging.check("http://public.test/")
    released.set()


def test_answers_of_another_family_are_refused() -> None:
    odd = UrlGuard(False, resolver=lambda *_, **__: [(1, 1, 0, "", ("/run/docker.sock",))])
    assert_forbidden(odd, "http://public.test/")


LISTED = {
    "public.test": [[PUBLIC]],
    "music.example.org": [[PUBLIC]],
    "example.org": [[PUBLIC]],
    "badexample.org": [[PUBLIC]],
    "nas.internal": [["10.1.2.3"]],
    "nas": [["10.1.2.3"]],
    "db.internal": [["10.9.9.9"]],
    "both.test": [["10.1.2.3", PUBLIC]],
    "localhost": [["127.0.0.1"]],
    "metadata.internal": [["169.254.169.254"]],
    "alibaba.internal": [["100.100.100.200"]],
    "v6.test": [["fd12::1"]],
}


def verdicts(urls: str, **options: Any) -> dict[str, bool]:
    """Return whether a guard with these lists accepts each of ``urls``."""
    subject = UrlGuard(options.pop("allow_private", False), resolver=Names(LISTED), **options)
    result = {}
    for url in urls.split():
        try:
            subject.check(url if "://" in url else f"http://{url}/")
            result[url] = True
        except PermanentError as error:
            result[url] = error.message != FORBIDDEN
    return result


@pytest.mark.parametrize(
    ("options", "passing", "refused"),
    [
        (
            {"allow_hosts": ["public.test"]},
            "public.test PUBLIC.test. https://public.test/",
            "example.org 93.184.216.34",
        ),
        ({"allow_hosts": [".example.org"]}, "music.example.org", "example.org badexample.org public.test"),
        ({"allow_hosts": ["93.184.216.34"]}, "93.184.216.34", "public.test"),
        ({"allow_hosts": ["nas.internal", "localhost"]}, "", "nas.internal localhost 127.0.0.1 public.test:22"),
        (
            {"allow_hosts": ["nas"], "allow_networks": ["10.1.0.0/16"]},
            "nas 10.1.2.3",
            "nas.internal public.test 10.9.9.9",
        ),
        ({"allow_hosts": ["public.test"], "allow_private": True}, "public.test:8080", "localhost 127.0.0.1 10.1.2.3"),
        ({"deny_hosts": ["public.test"]}, "example.org", "public.test PUBLIC.test."),
        ({"deny_hosts": [".example.org"]}, "example.org badexample.org", "music.example.org"),
        ({"deny_hosts": ["public.test"], "allow_hosts": ["public.test"]}, "", "public.test"),
        ({"deny_hosts": ["nas"], "allow_private": True}, "nas.internal localhost", "nas"),
        (
            {"allow_networks": ["10.1.0.0/16"]},
            "10.1.2.3 nas nas.internal both.test public.test",
            "10.9.9.9 db.internal",
        ),
        ({"allow_networks": ["10.1.0.0/16"]}, "", "localhost 127.0.0.1 nas:9000 192.168.0.1 [fd12::1] 0.0.0.0"),
        ({"allow_networks": ["fd12::/16"]}, "[fd12::1] v6.test", "[fd13::1] [::1] 10.1.2.3"),
        ({"allow_networks": ["0.0.0.0/0", "::/0"]}, "10.9.9.9 localhost [::1]", "metadata.internal alibaba.internal"),
        (
            {"allow_networks": ["0.0.0.0/0", "::/0"]},
            "",
            "169.254.169.254 [fd00:ec2::254] 0.0.0.0 [::ffff:10.1.2.3] 224.0.0.1",
        ),
        ({"deny_networks": ["93.184.0.0/16"]}, "", "public.test 93.184.216.34"),
        ({"deny_networks": ["10.1.2.0/24"], "allow_networks": ["10.0.0.0/8"]}, "10.9.9.9 db.internal", "10.1.2.3 nas"),
        ({"deny_networks": ["10.0.0.0/8"], "allow_private": True}, "localhost", "10.1.2.3 nas both.test"),
        ({"deny_networks": ["::/0"]}, "public.test", "[2606:4700::1111] http://[2606:4700::1111]/"),
    ],
)
def test_lists_of_hosts_and_networks(options: dict[str, Any], passing: str, refused: str) -> None:
    expected = {**dict.fromkeys(passing.split(), True), **dict.fromkeys(refused.split(), False)}
    assert verdicts(f"{passing} {refused}", **options) == expected


def test_guard_uses_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = DownloadSettings(
        allow_hosts=("music.example.org", ".cdn.test"),
        deny_hosts=("bad.cdn.test",),
        allow_networks=("10.1.0.0/16", "fd12::/32"),
        deny_networks=("10.1.9.0/24",),
        allow_ports=(443, 8443),
    )
    monkeypatch.setattr("socket.getaddrinfo", Names({}))
    subject = UrlGuard.from_settings(settings)
    assert subject.addresses("10.1.2.3", 8443)
    assert subject.addresses("fd12::1", 443)
    for host, port in [("10.1.9.3", 443), ("10.1.2.3", 80), ("93.184.216.34", 443), ("bad.cdn.test", 443)]:
        with pytest.raises(PermanentError):
            subject.addresses(host, port)
    assert UrlGuard.from_settings(settings, any_host=True).addresses("93.184.216.34", 443)


def test_private_networks_are_closed_by_default() -> None:
    subject = UrlGuard.from_settings(DownloadSettings())
    assert subject.addresses("93.184.216.34", 80)
    for host, port in [("127.0.0.1", 80), ("10.0.0.1", 443), ("93.184.216.34", 8080)]:
        with pytest.raises(PermanentError):
            subject.addresses(host, port)


@pytest.mark.parametrize(
    ("address", "is_open"),
    [
        ("2a00:1:2:3:4:5:93.184.216.34", True),
        ("2a00:1:2:3:4:5:10.0.0.1", False),
        ("2a00:1:2:3:4:5:169.254.169.254", False),
        ("2a00:1:2:3:4:6:10.0.0.1", True),
    ],
)
def test_addresses_behind_the_networks_own_translator_are_checked_as_ipv4(address: str, is_open: bool) -> None:
    names = Names({"song.test": [[address]], "ipv4only.arpa": [["2a00:1:2:3:4:5:192.0.0.170", "192.0.0.170"]]})
    subject = UrlGuard(False, resolver=names)
    for _ in range(2):
        if is_open:
            subject.check("http://song.test/")
        else:
            assert_forbidden(subject, "http://song.test/")
    assert names.asked.count("ipv4only.arpa") == 1
