"""The limit of log lines that clients can cause."""

from __future__ import annotations

from typing import Any

from pipeline.service.log_limit import ChangeLimit, LogLimit


def test_lines_beyond_the_burst_are_left_out_and_counted() -> None:
    now = 0.0
    lines: list[dict[str, Any]] = []
    limit = LogLimit(burst=3, interval=2.0, clock=lambda: now)

    def write(event: str, **values: object) -> None:
        lines.append({"event": event, **values})

    for number in range(10):
        limit.write(write, "refused", number=number)
    assert lines == [{"event": "refused", "number": number} for number in range(3)]

    now = 2.0
    limit.write(write, "refused", number=10)
    limit.write(write, "refused", number=11)
    assert lines[3:] == [{"event": "refused", "number": 10, "left_out": 7}]

    now = 1000.0
    for number in range(12, 20):
        limit.write(write, "refused", number=number)
    assert [line["number"] for line in lines[4:]] == [12, 13, 14]
    assert lines[4]["left_out"] == 1


class TestChangeLimit:
    def test_state_is_news_once_after_each_change_and_every_interval(self) -> None:
        now = 0.0
        limit = ChangeLimit(60.0, clock=lambda: now)
        seen = []
        for state in ("refused", "refused", "unknown name", "refused", "refused"):
            now += 1.0
            seen.append(limit.is_news("broker", state))
        assert seen == [True, False, True, True, False]
        now += 59.0
        assert limit.is_news("broker", "refused")
        assert not limit.is_news("broker", "refused")

    def test_subjects_are_independent(self) -> None:
        limit = ChangeLimit()
        assert limit.is_news("broker", "refused")
        assert limit.is_news("storage", "refused")

    def test_forgotten_state_is_news_again(self) -> None:
        limit = ChangeLimit()
        assert not limit.forget("broker")
        limit.is_news("broker", "refused")
        assert limit.forget("broker")
        assert not limit.forget("broker")
        assert limit.is_news("broker", "refused")
