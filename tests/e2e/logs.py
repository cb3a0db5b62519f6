"""Check the promises about logs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

#: Packages whose loggers may write: messages of libraries are translated.
_OWN_LOGGERS = {"__main__", "api", "pipeline", "processor", "uploader"}
#: Events of a single job.
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
    """Check that every line is a JSON object of an own logger, with the job's id, no secrets and no stack traces."""
    for service in ("api", "processor", "uploader"):
        text = (folder / f"{service}.log").read_text(encoding="utf-8")
        for secret in secrets:
            assert secret not in text, f"{service}: a secret is in the log"
        assert "ignature=" not in text, f"{service}: a signed link is in the log"
        events = read_log(folder / f"{service}.log")
        assert any(event["event"] in _ABOUT_JOBS for event in events), f"{service} logs nothing about jobs"
        for event in events:
            assert event["service"].startswith(service), event
            assert event["logger"].partition(".")[0] in _OWN_LOGGERS, event
            assert "exception" not in event, event
            assert "task_uuid" in event or event["event"] not in _ABOUT_JOBS, event


def read_log(file: Path) -> list[dict[str, Any]]:
    """Return the events in a log."""
    return [_parsed(line) for line in file.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]


def _parsed(line: str) -> dict[str, Any]:
    try:
        event: dict[str, Any] = json.loads(line)
    except ValueError:
        raise AssertionError(f"not JSON: {line}") from None
    return event
