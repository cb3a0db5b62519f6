"""Filters that select letters, and command lines that are wrong."""

from __future__ import annotations

from uuid import UUID

import pytest

from pipeline.dead_letters.__main__ import parse
from pipeline.dead_letters.filters import duration
from pipeline.dead_letters.letter import Letter, Position
from pipeline.transport.protocol import Message, StoredMessage

NOW = 1_000_000.0
TASK = "0e6c1c2e-5d7e-4a6e-9b0a-2f0f4d1f7a55"
MINUTE, HOUR = 60.0, 3600.0


def letter(offset: int, *, kind: str, code: str, age: float, topic: str = "uvr_tasks", key: str = "k") -> Letter:
    facts = {"original-topic": topic, "error-kind": kind, "error-code": code, "failed-at": f"{NOW - age}"}
    message = Message("uvr_dead_letters", key, b"", {name: fact.encode() for name, fact in facts.items()})
    return Letter.of(StoredMessage(message, partition=0, offset=offset, published_at=0.0))


LETTERS = [
    letter(0, kind="poison", code="worker_died", age=3 * HOUR),
    letter(1, kind="transient", code="webhook_failed", age=2 * HOUR, topic="uvr_results", key=TASK),
    letter(2, kind="permanent", code="message_invalid", age=30 * MINUTE),
    letter(3, kind="transient", code="webhook_failed", age=5 * MINUTE, topic="uvr_results", key=TASK.upper()),
]


@pytest.mark.parametrize(
    ("filters", "selected_offsets"),
    [
        ("", [0, 1, 2, 3]),
        ("--kind poison", [0]),
        ("--error webhook_failed", [1, 3]),
        ("--topic uvr_results", [1, 3]),
        (f"--task {TASK}", [1, 3]),
        (f"--task {UUID(TASK).hex.upper()}", [1, 3]),
        ("--older-than 1h", [0, 1]),
        ("--older-than 120m", [0]),
        ("--newer-than 1h", [2, 3]),
        ("--newer-than 300s", []),
        ("--newer-than 7d", [0, 1, 2, 3]),
        ("--limit 2", [0, 1]),
        ("--error webhook_failed --limit 1", [1]),
        ("--error webhook_failed --newer-than 1h --kind transient --topic uvr_results", [3]),
        ("--error webhook_failed --kind poison", []),
    ],
)
@pytest.mark.parametrize("command", ["list", "replay", "drop"])
def test_each_filter_selects(command: str, filters: str, selected_offsets: list[int]) -> None:
    selected = parse([command, *filters.split()]).filters

    assert [found.position.offset for found in selected.select(LETTERS, NOW)] == selected_offsets


@pytest.mark.parametrize(
    "command_line",
    [
        "",
        "burn 0/1",
        "show",
        "show 0/1 0/2",
        "show 1",
        "show -1/2",
        "replay 0/x",
        "replay 0/1 --error webhook_failed",
        "drop 0/1 --limit 3",
        "replay --again",
        "replay --again --kind poison",
        "drop 0/1 --again",
        "list --error webhook_faild",
        "list --kind sudden",
        "list --task me",
        "list --older-than 10",
        "list --older-than m",
        "list --newer-than -10m",
        "list --limit 0",
        "list --limit two",
    ],
)
def test_a_wrong_command_line_exits_with_status_64(command_line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(command_line.split())

    assert ended.value.code == 64
    assert "error: " in capsys.readouterr().err


@pytest.mark.parametrize("command_line", ["replay 0/1 2/3 --again --yes", "replay --yes --again 0/1 2/3"])
def test_ids_and_options_are_accepted_in_any_order(command_line: str) -> None:
    arguments = parse(command_line.split())

    assert arguments.ids == [Position(0, 1), Position(2, 3)]
    assert arguments.again


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("10m", 600), ("2h", 7200), ("7d", 604_800)])
def test_durations(text: str, seconds: float) -> None:
    assert duration(text) == seconds
