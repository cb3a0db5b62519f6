"""The headers that carry the history of a message, including malformed ones."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.consuming.retry_headers import RetryHeaders, dead_letter, original_headers, retry_message
from pipeline.errors import ErrorCode, TransientError
from pipeline.transport.protocol import Message, due_at

ERROR = TransientError("the source answers 503", code=ErrorCode.SOURCE_UNAVAILABLE)
MESSAGE = Message("jobs", "k", b"song", {"trace": b"\x01"})


def test_new_message_has_no_history() -> None:
    assert RetryHeaders.from_message(MESSAGE) == RetryHeaders("jobs")


def test_repeated_retries_keep_the_origin_and_the_first_failure() -> None:
    before = time.time()
    first = retry_message(MESSAGE, "retry-1", 10.0, ERROR, attempts=1, crashes=0)
    second = retry_message(first, "retry-2", 60.0, ERROR, attempts=2, crashes=1)

    history = RetryHeaders.from_message(second)
    assert (history.topic, history.attempts, history.crashes) == ("jobs", 2, 1)
    assert history.first_failed_at == RetryHeaders.from_message(first).first_failed_at
    assert (second.topic, second.key, second.value, second.headers["trace"]) == ("retry-2", "k", b"song", b"\x01")
    assert before + 59.9 <= due_at(second) <= time.time() + 60.1


def test_dead_letter_names_the_original_topic_and_is_due_at_once() -> None:
    letter = dead_letter("letters", retry_message(MESSAGE, "retry-1", 1e6, ERROR, attempts=1, crashes=0), ERROR)
    assert letter.headers["original-topic"] == b"jobs"
    assert due_at(letter) == 0
    assert original_headers(letter.headers) == MESSAGE.headers


@given(st.dictionaries(st.sampled_from(["attempts", "crashes", "first-failed-at", "original-topic"]), st.binary()))
def test_foreign_headers_are_tolerated(headers: dict[str, bytes]) -> None:
    history = RetryHeaders.from_message(Message("jobs", "k", b"", headers))
    assert history.attempts >= 0
    assert history.crashes >= 0


@pytest.mark.parametrize("value", [b"nan", b"inf", b"-1", b"", b"\xff", b"three"])
def test_malformed_number_counts_as_missing(value: bytes) -> None:
    assert RetryHeaders.from_message(Message("jobs", "k", b"", {"attempts": value})).attempts == 0
