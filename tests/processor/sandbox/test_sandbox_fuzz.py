"""Damaged files of every container end in the sandbox as they do without it: as a song or as a clear refusal."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from pipeline.cancellation import CancelToken
from pipeline.errors import ErrorCode, PermanentError
from processor.audio.decode import Mixture, decode
from processor.audio.probe import probe
from processor.sandbox.client import AudioSandbox
from tests.processor.audio.damage import MAX_SECONDS, damaged
from tests.processor.audio.test_decode_fuzz import KINDS, written
from tests.processor.pipeline_harness import shared_sandbox

SEED, COUNT = 1, 4

Outcome = Mixture | tuple[ErrorCode, str]


def outside(source: Path) -> Outcome:
    try:
        probe(source, max_seconds=MAX_SECONDS)
        return decode(source, source.parent, max_seconds=MAX_SECONDS, cancel=CancelToken())
    except PermanentError as error:
        return error.code, error.message


def inside(sandbox: AudioSandbox, source: Path) -> Outcome:
    with sandbox.open(source.parent, max_seconds=MAX_SECONDS, cancel=CancelToken()) as decoder:
        try:
            decoder.probe(source)
            return decoder.decode(source)
        except PermanentError as error:
            return error.code, error.message


@pytest.mark.slow
def test_damaged_files_end_in_the_sandbox_as_without_it(tmp_path: Path) -> None:
    """A failure can be reproduced from the kind and the number."""
    sandbox = shared_sandbox()
    with capture_logs() as logs:
        for kind in KINDS:
            content, rng = written(tmp_path, kind).read_bytes(), random.Random(f"{SEED} {kind}")
            for number in range(COUNT):
                source = tmp_path / "source"
                source.write_bytes(damaged(content, rng))
                assert inside(sandbox, source) == outside(source), f"{kind} {number}"
    assert "sandbox_process_died" not in {line["event"] for line in logs}
