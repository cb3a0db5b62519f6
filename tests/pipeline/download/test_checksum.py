"""Checksums: validation, and announcements in response headers."""

from __future__ import annotations

import base64
import hashlib

import pytest
from requests.structures import CaseInsensitiveDict

from pipeline.download.checksum import Checksum, announced_checksum

DATA = b"some bytes"
SHA256 = hashlib.sha256(DATA)
MD5 = hashlib.md5(DATA)
SHA256_64 = base64.b64encode(SHA256.digest()).decode()
MD5_64 = base64.b64encode(MD5.digest()).decode()
OF_SHA256 = Checksum("sha256", SHA256.hexdigest())
OF_MD5 = Checksum("md5", MD5.hexdigest())


@pytest.mark.parametrize(
    "arguments",
    [
        ("sha1", "0" * 40),
        ("sha256", "0" * 63),
        ("sha256", "g" * 64),
        ("md5", "0" * 64),
        ("md5", "0" * 31 + "\n"),
    ],
)
def test_malformed_checksums_are_rejected(arguments: tuple[str, str]) -> None:
    with pytest.raises(ValueError, match="checksum"):
        Checksum(*arguments)


def test_comparison_ignores_case() -> None:
    assert Checksum("md5", MD5.hexdigest().upper()).matches(MD5.hexdigest())


@pytest.mark.parametrize(
    ("headers", "whole_file", "found"),
    [
        ({}, True, None),
        ({"Repr-Digest": f"sha-256=:{SHA256_64}:"}, False, OF_SHA256),
        ({"repr-digest": f"unknown=:AAAA:, sha-256=:{SHA256_64}:"}, False, OF_SHA256),
        ({"Digest": f"SHA-256={SHA256_64},MD5={MD5_64}"}, False, OF_SHA256),
        ({"Digest": f"md5={MD5_64}"}, False, OF_MD5),
        ({"Content-MD5": MD5_64}, True, OF_MD5),
        ({"Content-MD5": MD5_64}, False, None),
        ({"Content-Digest": f"sha-256=:{SHA256_64}:"}, True, OF_SHA256),
        ({"Content-Digest": f"sha-256=:{SHA256_64}:"}, False, None),
        ({"x-goog-hash": f"crc32c=n03x6A==,md5={MD5_64}"}, False, OF_MD5),
        ({"x-goog-hash": f"md5={MD5_64}", "x-goog-stored-content-encoding": "gzip"}, True, None),
        ({"x-goog-hash": f"md5={MD5_64}", "x-goog-stored-content-encoding": "identity"}, True, OF_MD5),
        ({"Digest": f"sha-256={MD5_64}"}, True, None),
        ({"Digest": "sha-256=%%%"}, True, None),
        ({"Content-MD5": "A"}, True, None),
    ],
)
def test_announced_checksums(headers: dict[str, str], whole_file: bool, found: Checksum | None) -> None:
    assert announced_checksum(CaseInsensitiveDict(headers), whole_file=whole_file) == found
