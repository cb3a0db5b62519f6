"""Test what the audit makes of pip-audit's report, and that it does not fail where the data cannot be reached."""

from __future__ import annotations

from typing import Any

import pytest

from scripts import audit
from scripts.audit import ROOT


def test_vulnerabilities_are_listed_with_the_versions_that_mend_them() -> None:
    entries: list[dict[str, Any]] = [
        {"name": "jinja2", "version": "2.10", "vulns": [{"id": "PYSEC-2019-217", "fix_versions": ["2.10.1"]}]},
        {"name": "pillow", "version": "8.0.0", "vulns": [{"id": "PYSEC-2021-1", "fix_versions": []}]},
        {"name": "requests", "version": "2.34.2", "vulns": []},
        {"name": "numpy", "skip_reason": "not found"},
    ]
    assert list(audit.report(entries)) == [
        "jinja2 2.10: PYSEC-2019-217, fixed in: 2.10.1",
        "pillow 8.0.0: PYSEC-2021-1, fixed in: none yet",
    ]


def test_all_locks_are_audited() -> None:
    names = {lock.stem for lock in audit.locks()}
    assert names >= {"service", "separation", "torch-cuda", "onnxruntime-cpu", "onnxruntime-gpu", "dev", "uv"}


def test_unreachable_data_is_no_failure(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")  # nothing listens there
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert audit.main([ROOT / "requirements" / "bench.lock"]) == 0
    assert "Nothing was checked" in capsys.readouterr().out
