"""The comparison of HTTP/3 with HTTP/1.1, with small files over loopback."""

from __future__ import annotations

from benchmarks.download.http3 import http3_section


def test_every_version_is_measured_without_failures() -> None:
    rows = [line.split(" | ") for line in http3_section(quick=True).splitlines() if line.startswith("| loopback")]
    assert {row[1] for row in rows} >= {"1.1, CUBIC", "3, CUBIC"}
    assert {row[-1] for row in rows} == {"0 |"}
