from __future__ import annotations

import stat
import subprocess
import sys
from pathlib import Path
from urllib.parse import parse_qs

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import ErrorCode, InfrastructureError
from pipeline.storage.signed_links import LinkSigner, load_or_create_key

REPOSITORY = Path(__file__).resolve().parents[3]
SIGNER = LinkSigner(b"k" * 32)
KEY = "6f1c3e0a_vocals.wav"
END = 2_000_000_000


def signature_of(query: str) -> str:
    return parse_qs(query, strict_parsing=True)["signature"][0]


GENUINE = signature_of(SIGNER.sign(KEY, END))


def test_query_contains_expiry_and_signature() -> None:
    assert SIGNER.sign(KEY, END) == f"expires={END}&signature={GENUINE}"


def test_link_is_valid_until_its_expiry() -> None:
    assert SIGNER.verify(KEY, END, GENUINE, now=END - 0.001)
    assert not SIGNER.verify(KEY, END, GENUINE, now=END)


def test_only_signers_with_the_same_key_agree() -> None:
    assert LinkSigner(b"k" * 32).verify(KEY, END, GENUINE, now=0)
    assert not LinkSigner(b"K" * 32).verify(KEY, END, GENUINE, now=0)


@given(st.text(), st.integers(min_value=0), st.text())
def test_any_other_link_is_invalid(key: str, end: int, signature: str) -> None:
    assert not SIGNER.verify(key, END, GENUINE, now=0) or key == KEY
    assert not SIGNER.verify(KEY, end, GENUINE, now=0) or end == END
    assert not SIGNER.verify(KEY, END, signature, now=0) or signature == GENUINE


@pytest.mark.parametrize("signature", ["", "ä", "\ud800", GENUINE + "=", GENUINE.upper(), GENUINE[:-1], f" {GENUINE}"])
def test_malformed_signatures_are_rejected(signature: str) -> None:
    assert not SIGNER.verify(KEY, END, signature, now=0)


def test_key_file_is_created_once_with_mode_0600(tmp_path: Path) -> None:
    path = tmp_path / "new" / "link.key"
    key = load_or_create_key(path)
    assert len(key) == 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load_or_create_key(path) == key
    assert [entry.name for entry in path.parent.iterdir()] == ["link.key"]


def test_key_files_differ(tmp_path: Path) -> None:
    assert load_or_create_key(tmp_path / "one") != load_or_create_key(tmp_path / "two")


def test_concurrent_processes_agree_on_one_key(tmp_path: Path) -> None:
    path = tmp_path / "link.key"
    # Each waits for the end of its input, so that all start at the same time.
    program = (
        "import sys; from pathlib import Path; from pipeline.storage.signed_links import load_or_create_key;"
        "print('ready', flush=True); sys.stdin.read(); print(load_or_create_key(Path(sys.argv[1])).hex())"
    )
    runners = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(path)],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    for runner in runners:
        assert runner.stdout is not None
        assert runner.stdout.readline() == "ready\n"
    for runner in runners:
        assert runner.stdin is not None
        runner.stdin.close()
    keys = set()
    for runner in runners:
        with runner:
            assert runner.stdout is not None
            keys.add(runner.stdout.read().strip())
    assert keys == {path.read_bytes().hex()}


@pytest.mark.parametrize("content", [b"", b"x" * 31, b"x" * 33])
def test_damaged_key_file_is_reported_and_kept(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "link.key"
    path.write_bytes(content)
    with pytest.raises(InfrastructureError, match=r"link\.key in DATA_DIR is damaged") as caught:
        load_or_create_key(path)
    assert caught.value.code is ErrorCode.STORAGE_REFUSED
    assert path.read_bytes() == content
