"""Downloads from a server on loopback into an observed folder."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.cancellation import CancelToken
from pipeline.download import Downloaded, DownloadLimits, UrlGuard, download
from pipeline.errors import ErrorCode, PipelineError

LIMITS = DownloadLimits(max_bytes=10_000_000, connect_timeout=10, stall_timeout=10, total_timeout=20)


#: Options that ``fail`` passes to ``download``; all other keywords are limits.
OPTIONS = ("connection_options", "on_progress", "mirrors", "checksum", "resume", "rate")


@dataclass
class Fetcher:
    """Downloads into ``folder``, and checks that it is empty after each failure."""

    folder: Path
    guard: UrlGuard = field(default_factory=lambda: UrlGuard(True))
    cancel: CancelToken = field(default_factory=CancelToken)

    def fetch(self, url: str, *, limits: DownloadLimits = LIMITS, **options: Any) -> Downloaded:
        return download(url, self.folder / "audio", guard=self.guard, limits=limits, cancel=self.cancel, **options)

    def fail(self, url: str, kind: type[PipelineError], code: ErrorCode, **changes: Any) -> PipelineError:
        """Return the error that ``fetch`` raises. ``changes``: changed limits, or options of ``download``."""
        options = {name: changes.pop(name) for name in OPTIONS if name in changes}
        with pytest.raises(kind) as caught:
            self.fetch(url, limits=replace(LIMITS, **changes), **options)
        assert caught.value.code is code
        assert list(self.folder.iterdir()) == []
        assert_presentable(caught.value.message)
        return caught.value


def assert_presentable(message: str) -> None:
    """Check that a message is one line without secrets, local paths, class names and resolved addresses."""
    assert message
    for leak in ("secret", "/tmp", "\n", "Error(", "object at", "urllib3", "HTTPConnection"):
        assert leak not in message
