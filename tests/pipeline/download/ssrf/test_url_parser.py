"""Accepted URLs have the same meaning for every parser; all others are refused."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest
import urllib3.util
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.download.ssrf.url_parser import MAX_URL_BYTES, ParsedUrl, join_url, parse_url
from pipeline.errors import PermanentError

#: Fragments of URLs on which parsers disagree.
PIECES = st.one_of(
    st.sampled_from(
        ["http://", "https://", "HTTP:", "//", "/", "\\", "@", ":", "?", "#", "%", "[", "]", ".", "-", "_"]
    ),
    st.sampled_from(["a", "Z", "9", "80", "0x7f", "127.0.0.1", "::1", "public.test", "localhost", "xn--bcher-kva"]),
    st.sampled_from(["bücher", "①", "。", "．", "ß", "K", "\t", "\r\n", " ", "\0", "\u00a0", "\u200b"]),
    st.sampled_from(["%00", "%2f", "%40", "user:pw"]),
)
URLS = st.one_of(
    st.lists(PIECES, max_size=8).map("".join),
    st.lists(PIECES, max_size=8).map(lambda pieces: "http://" + "".join(pieces)),
    st.text(max_size=40).map(lambda text: "http://public.test/" + text),
)


@settings(deadline=None)
@given(URLS)
@example("http://[::1]:8080/a?b#c")
def test_accepted_urls_mean_the_same_to_every_parser(text: str) -> None:
    try:
        parsed = parse_url(text)
    except PermanentError:
        return
    assert parse_url(parsed.url) == parsed
    split, parsed_by_urllib3 = urlsplit(parsed.url), urllib3.util.parse_url(parsed.url)
    assert split.scheme == parsed_by_urllib3.scheme == parsed.scheme
    assert split.hostname == (parsed_by_urllib3.host or "").strip("[]") == parsed.host
    assert parsed.host.isascii()
    assert split.username is parsed_by_urllib3.auth is None
    assert (split.port or {"http": 80, "https": 443}[parsed.scheme]) == parsed.port


@pytest.mark.parametrize(
    ("text", "parsed", "url"),
    [
        ("HTTP://Public.Test", ParsedUrl("http", "public.test", 80, "/"), "http://public.test/"),
        ("https://a.test./x", ParsedUrl("https", "a.test", 443, "/x"), "https://a.test/x"),
        ("https://a.test:443/x", ParsedUrl("https", "a.test", 443, "/x"), "https://a.test/x"),
        ("http://a.test:443?q#f", ParsedUrl("http", "a.test", 443, "/?q"), "http://a.test:443/?q"),
        ("http://Bücher.test/ü", ParsedUrl("http", "xn--bcher-kva.test", 80, "/ü"), "http://xn--bcher-kva.test/ü"),
        ("http://a_b.test/", ParsedUrl("http", "a_b.test", 80, "/"), "http://a_b.test/"),
        ("http://[2001:DB8:0::1]:81/", ParsedUrl("http", "2001:db8::1", 81, "/"), "http://[2001:db8::1]:81/"),
    ],
)
def test_plain_urls_are_normalised(text: str, parsed: ParsedUrl, url: str) -> None:
    assert parse_url(text) == parsed
    assert parsed.url == url


def test_length_limit() -> None:
    longest = "http://public.test/".ljust(MAX_URL_BYTES, "a")
    assert parse_url(longest).host == "public.test"
    with pytest.raises(PermanentError, match="longer than"):
        parse_url(longest + "a")
    with pytest.raises(PermanentError, match="longer than"):
        parse_url(longest[:-1] + "ü")


def test_messages_do_not_repeat_credentials() -> None:
    with pytest.raises(PermanentError) as caught:
        parse_url("http://user:secret@public.test/")
    assert "secret" not in caught.value.message


@pytest.mark.parametrize(
    ("reference", "url"),
    [
        ("b", "http://a.test/x/b"),
        ("/b?q", "http://a.test/b?q"),
        ("//b.test/", "http://b.test/"),
        ("https://b.test/", "https://b.test/"),
        ("?q", "http://a.test/x/y?q"),
    ],
)
def test_locations_are_resolved_against_the_sending_url(reference: str, url: str) -> None:
    assert join_url(parse_url("http://a.test/x/y?z"), reference).url == url


@pytest.mark.parametrize(
    "reference",
    [
        "http://\t127.0.0.1/",
        "/\\b.test/",
        "//[::1",
        "http://a@b.test/",
        "a b",
        "http:b",
        "http:/b.test/",
        "///b.test/",
        "//",
    ],
)
def test_odd_locations_are_refused(reference: str) -> None:
    with pytest.raises(PermanentError):
        join_url(parse_url("http://a.test/"), reference)
