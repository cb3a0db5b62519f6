from __future__ import annotations

from pathlib import Path
from urllib.parse import quote
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import PermanentError
from pipeline.messages import OutputFormat
from pipeline.storage.object_keys import check_key, handoff_key, outcome_key, staged_key, stem_key

TASK = UUID("6f1c3e0a-8a55-4c43-a8f0-0a4a3e3f0d11")


def test_keys_match_the_documented_format() -> None:
    assert stem_key(TASK, "vocals", OutputFormat.WAV) == f"{TASK}_vocals.wav"
    assert stem_key(TASK, "instrumental", OutputFormat.FLAC) == f"{TASK}_instrumental.flac"
    digest = "0123456789abcdef" * 4
    assert handoff_key(TASK, "", "vocals", digest) == f"handoff/{TASK}/vocals-0123456789abcdef.wav"
    assert handoff_key(TASK, "r1", "vocals", digest) == f"handoff/{TASK}_r1/vocals-0123456789abcdef.wav"


def test_keys_of_names_in_other_scripts_are_plain_and_distinct() -> None:
    names = ("人声", "伴奏", "人声_2")
    for keys in (
        {stem_key(TASK, name, OutputFormat.WAV) for name in names},
        {handoff_key(TASK, "", name, "0" * 64) for name in names},
        {staged_key(TASK, name, "0" * 64, OutputFormat.WAV) for name in names},
    ):
        assert len(keys) == len(names)
        assert all(key.isascii() and check_key(key) for key in keys)


def test_every_requested_repeat_has_its_own_outcome() -> None:
    assert outcome_key(TASK, "") == f"outcomes/{TASK}.json"
    assert outcome_key(TASK, "r0-17") == f"outcomes/{TASK}_r0-17.json"


@pytest.mark.parametrize("stem", ["../vocals", "voc/als", "voc als", "..", "/vocals", ""])
def test_stem_name_cannot_leave_its_folder(stem: str) -> None:
    with pytest.raises(PermanentError):
        handoff_key(TASK, "", stem, "0" * 64)
    with pytest.raises(PermanentError):
        stem_key(TASK, stem, OutputFormat.WAV)


@given(st.one_of(st.text(), st.from_regex(r"[A-Za-z0-9._/~%\\ -]{0,40}", fullmatch=True)))
def test_valid_key_is_unchanged_as_path_and_url(key: str) -> None:
    """Check that a valid key stays below the root as a path, and needs no quoting in a URL."""
    try:
        check_key(key)
    except PermanentError:
        return
    root = Path("/root")
    path = (root / key).resolve()
    assert path.is_relative_to(root)
    assert path != root
    assert str(path.relative_to(root)) == key
    assert quote(key) == key
