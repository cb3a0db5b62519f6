"""What a message carries about its past, and what somebody else's headers make of it."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.consuming.retry_headers import RetryHeaders, dead_letter, retry_message, without_trail
from pipeline.errors import ErrorCode, TransientError
from pipeline.transport.protocol import Message, due_at

ERROR = TransientError("the source answers 503", code=ErrorCode.SOURCE_UNAVAILABLE)
MESSAGE = Message("jobs", "k", b"song", {"trace": b"\x01"})


def test_a_new_message_has_no_past() -> None:
    assert RetryHeaders.of(MESSAGE) == RetryHeaders("jobs")


def test_a_message_that_is_tried_again_and_again_knows_where_it_came_from_and_since_when() -> None:
    before = time.time()
    first = retry_message(MESSAGE, "retry-1", 10.0, ERROR, attempts=1, crashes=0)
    second = retry_message(first, "retry-2", 60.0, ERROR, attempts=2, crashes=1)

    trail = RetryHeaders.of(second)
    assert (trail.topic, trail.attempts, trail.crashes) == ("jobs", 2, 1)
    assert trail.first_failed_at == RetryHeaders.of(first).first_failed_at
    assert (second.topic, second.key, second.value, second.headers["trace"]) == ("retry-2", "k", b"song", b"\x01")
    assert before + 59.9 <= due_at(second) <= time.time() + 60.1


def test_a_dead_letter_tells_of_the_first_topic_and_is_not_held_back() -> None:
    letter = dead_letter("letters", retry_message(MESSAGE, "retry-1", 1e6, ERROR, attempts=1, crashes=0), ERROR)
    assert letter.headers["original-topic"] == b"jobs"
    assert due_at(letter) == 0
    assert without_trail(letter.headers) == MESSAGE.headers


@given(st.dictionaries(st.sampled_from(["attempts", "crashes", "first-failed-at", "original-topic"]), st.binary()))
def test_whatever_somebody_else_has_written_is_no_hindrance(headers: dict[str, bytes]) -> None:
    trail = RetryHeaders.of(Message("jobs", "k", b"", headers))
    assert trail.attempts >= 0
    assert trail.crashes >= 0


@pytest.mark.parametrize("value", [b"nan", b"inf", b"-1", b"", b"\xff", b"three"])
def test_a_number_that_is_none_counts_as_none(value: bytes) -> None:
    assert RetryHeaders.of(Message("jobs", "k", b"", {"attempts": value})).attempts == 0
