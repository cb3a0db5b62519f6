"""Test `./start_local.sh demo` with the embedded engines, and with a real Kafka and S3."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import soundfile

from devstack.kafka.broker import fetch_kafka
from devstack.s3 import fetch_s3_server
from tests.e2e.checkout import Checkout
from tests.e2e.service import files
from tests.support.servers import require

pytestmark = pytest.mark.slow

#: Smallest gain in SDR of the voice over the mixture itself, dB.
REQUIRED_GAIN = 6.0


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    checkout = Checkout(tmp_path / "checkout")
    checkout.borrow_environment()
    return checkout


def test_demo(checkout: Checkout) -> None:
    check_demo(checkout, "demo")


@pytest.mark.kafka
@pytest.mark.s3
@pytest.mark.timeout(900)
def test_demo_with_a_real_kafka_and_s3(checkout: Checkout, tools_dir: Path) -> None:
    require(lambda: fetch_kafka(tools_dir))
    require(lambda: fetch_s3_server(tools_dir))
    body = check_demo(checkout, "--kafka", "demo", UVR_TOOLS_DIR=str(tools_dir))
    assert "X-Amz-Signature" in body["vocals"]


@pytest.mark.skipif(
    "UVR_TEST_FRESH_INSTALL" not in os.environ, reason="takes minutes; set UVR_TEST_FRESH_INSTALL=1 to run it"
)
@pytest.mark.timeout(1800)
def test_demo_after_a_fresh_installation(tmp_path: Path) -> None:
    checkout = Checkout(tmp_path / "checkout")
    assert "Installing" in run_demo(checkout, "demo", UV_OFFLINE="false", PIP_NO_INDEX="false").stderr
    assert "Installing" not in run_demo(checkout, "demo").stderr


def check_demo(checkout: Checkout, *arguments: str, **environment: str) -> dict[str, Any]:
    """Run the demo; check its output and its files; return the body of the webhook."""
    output = run_demo(checkout, *arguments, **environment).stdout
    assert "signature    verified" in output
    body: dict[str, Any] = json.loads(found(r"^webhook +(\{.*\})$(?=\nsignature)", output))
    assert body["status"] == "success"
    check_gain(output)
    check_files(Path(found(r"^stems +([^\n]+)$", output)), body)
    check_nothing_left(checkout)
    return body


def found(pattern: str, text: str) -> str:
    match = re.search(pattern, text, re.MULTILINE | re.DOTALL)
    assert match, text
    return match[1]


def run_demo(checkout: Checkout, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    run = checkout.run(*arguments, **environment)
    assert run.returncode == 0, run.stdout + run.stderr
    return run


def check_gain(output: str) -> None:
    gains = dict(re.findall(r"^SDR +(\w+) +mixture .* dB, separated .* dB \(([-+.\d]+) dB\)$", output, re.MULTILINE))
    assert gains.keys() == {"vocals", "instrumental"}
    assert float(gains["vocals"]) >= REQUIRED_GAIN


def check_files(folder: Path, body: dict[str, Any]) -> None:
    assert {path.name for path in folder.iterdir()} == {"vocals.wav", "instrumental.wav"}
    for stem in body["stems"]:
        path = folder / f"{stem['name']}.wav"
        about = soundfile.info(path)
        assert (about.format, about.subtype, about.channels, about.samplerate) == ("WAV", "PCM_16", 2, 44_100)
        assert about.duration == stem["duration"] == 24.0
        assert hashlib.sha256(path.read_bytes()).hexdigest() == stem["sha256"]


def check_nothing_left(checkout: Checkout) -> None:
    assert not checkout.processes()
    (state,) = (checkout.root / ".local").glob("demo*/state")
    assert not files(state / "handoff")
    assert not files(state / "tmp")
    assert (checkout.root / ".env").stat().st_mode & 0o777 == 0o600
