"""What the guard refuses, what it lets pass, and how little it says about it."""

from __future__ import annotations

import threading

import pytest

from pipeline.download.guard import FORBIDDEN, UrlGuard
from pipeline.errors import ErrorCode, PermanentError, TransientError
from tests.download.network import PUBLIC, Names


def guard(allow_private: bool = False, **names: list[list[str]]) -> UrlGuard:
    table = {f"{name}.test": answers for name, answers in names.items()}
    return UrlGuard(allow_private, resolver=Names({**table, "localhost": [["127.0.0.1"]], "nas": [["192.168.1.9"]]}))


def assert_forbidden(subject: UrlGuard, url: str) -> None:
    with pytest.raises(PermanentError) as caught:
        subject.check(url)
    assert caught.value.code is ErrorCode.URL_FORBIDDEN
    assert caught.value.message == FORBIDDEN


def test_a_public_name_passes() -> None:
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
def test_every_reason_to_refuse_reads_the_same(url: str) -> None:
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
def test_some_places_stay_closed_even_then(url: str) -> None:
    assert_forbidden(guard(allow_private=True, metadata=[["169.254.169.254"]]), url)


def test_ports_can_be_added() -> None:
    names = Names({"public.test": [[PUBLIC]]})
    UrlGuard(False, (80, 443, 8443), resolver=names).check("https://public.test:8443/")
    with pytest.raises(PermanentError):
        UrlGuard(False, (443,), resolver=names).check("http://public.test/")


def test_the_dns_is_not_asked_about_what_is_refused_anyway() -> None:
    names = Names({})
    for url in ("http://nas/", "http://db.internal/", "http://public.test:22/", "http://u@public.test/"):
        with pytest.raises(PermanentError):
            UrlGuard(False, resolver=names).check(url)
    assert names.asked == []


@pytest.mark.parametrize("answers", [None, [[]]])
def test_a_name_without_addresses_may_have_some_later(answers: list[list[str]] | None) -> None:
    subject = guard(unknown=answers) if answers else guard()
    with pytest.raises(TransientError) as caught:
        subject.check("http://unknown.test/")
    assert caught.value.code is ErrorCode.SOURCE_UNAVAILABLE


def test_a_dns_that_does_not_answer_does_not_hold_up_the_front_door() -> None:
    released = threading.Event()
    hanging = UrlGuard(False, resolver=lambda *_, **__: [()] * released.wait(20), resolve_timeout=0.1)
    with pytest.raises(TransientError):
        hanging.check("http://public.test/")
    released.set()


def test_answers_of_another_family_are_refused() -> None:
    odd = UrlGuard(False, resolver=lambda *_, **__: [(1, 1, 0, "", ("/run/docker.sock",))])
    assert_forbidden(odd, "http://public.test/")
