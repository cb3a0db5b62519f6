"""What an operator may rely on in the logs, whatever has happened."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

#: Who may write: what libraries have to say is told in words of our own.
_OURS = {"__main__", "api", "pipeline", "processor", "uploader"}
#: Events that are about one job.
_ABOUT_JOBS = {
    "downloaded",
    "http_error",
    "job_accepted",
    "job_attempt_failed",
    "job_lost",
    "job_quarantined",
    "job_settled",
    "job_unsettled",
    "separated",
    "separating",
    "outcome_decided",
    "stem_handed_off",
    "stem_lost",
    "task_resubmitted",
    "upload_failed",
    "webhook_answered",
}


def check_logs(folder: Path, *, secrets: tuple[str, ...]) -> None:
    """Every line of every service is one JSON object of our own; jobs are named; nothing secret, no stack trace."""
    for service in ("api", "processor", "uploader"):
        text = (folder / f"{service}.log").read_text(encoding="utf-8")
        for secret in secrets:
            assert secret not in text, f"{service}: a secret is in the log"
        assert "ignature=" not in text, f"{service}: a signed link is in the log"
        events = read_log(folder / f"{service}.log")
        assert any(event["event"] in _ABOUT_JOBS for event in events), f"{service} logs nothing about jobs"
        for event in events:
            assert event["service"].startswith(service), event
            assert event["logger"].partition(".")[0] in _OURS, event
            assert "exception" not in event, event
            assert "task_uuid" in event or event["event"] not in _ABOUT_JOBS, event


def read_log(file: Path) -> list[dict[str, Any]]:
    """The events in a log."""
    return [_parsed(line) for line in file.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]


def _parsed(line: str) -> dict[str, Any]:
    try:
        event: dict[str, Any] = json.loads(line)
    except ValueError:
        raise AssertionError(f"no JSON: {line}") from None
    return event
