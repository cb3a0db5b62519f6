"""The report of a run in Markdown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from statistics import median

from tests.chaos.audit.audit import figures, problems
from tests.chaos.audit.ledger import Command, Entry, FaultBegan, FaultSkipped, Phase, ServiceExited
from tests.chaos.audit.ledger_index import LedgerIndex
from tests.chaos.audit.recovery import overall, recoveries

_MAX_SHOWN = 40
"""Maximum number of problems in the report."""


def page(entries: Sequence[Entry]) -> str:
    """Return the report."""
    found_problems = problems(entries)
    parts = (["# Chaos"], _run(entries, found_problems), _faults(entries), _problems(found_problems))
    return "\n\n".join("\n".join(part) for part in parts)


def _run(entries: Sequence[Entry], found_problems: Sequence[str]) -> Iterator[str]:
    index = LedgerIndex(entries)
    counted = figures(entries)
    began = Counter(entry.target for entry in index.of(FaultBegan))
    skipped = Counter(f"{entry.kind} of {entry.target}: {entry.why}" for entry in index.of(FaultSkipped))
    exits = Counter(f"{entry.service} with status {entry.status}" for entry in index.of(ServiceExited))
    refusals = sorted(answer.seconds for answer in index.responses.values() if answer.status == 503)
    yield from _table(
        ("", ""),
        [
            *_command(index),
            ("total duration", _duration(entries)),
            ("faults injected", f"{began.total()}"),
            ("faults skipped", _list_counts(skipped)),
            ("requests for jobs, repeated until 202", f"{counted.posts}"),
            ("jobs accepted (202)", f"{counted.accepted}"),
            ("… with a delivered webhook", f"{counted.notified}"),
            ("**losses**", f"**{counted.lost}**"),
            ("only in a destroyed log: may be lost, are lost", f"{counted.expendable}, {counted.lost_with_log}"),
            ("**contradictory outcomes**", f"**{counted.contradictions}**"),
            ("repeated webhooks", f"{counted.webhooks_repeated}"),
            ("repeated separations", f"{counted.separations_repeated}"),
            ("503 responses (median, slowest)", f"{counted.refused} ({_spread(refusals)})"),
            ("no response", f"{counted.unanswered}"),
            ("… although the job was created", f"{counted.unknown_accepted}"),
            ("503 although the job was created", f"{counted.accepted_after_refusal}"),
            ("poison: children killed, jobs quarantined", f"{counted.poison_begun}, {counted.quarantined}"),
            ("unexpected exits of services", _list_counts(exits)),
            ("audit", "passed" if not found_problems else f"failed: {len(found_problems)} problems"),
        ],
    )


def _command(index: LedgerIndex) -> Iterator[tuple[str, str]]:
    for command in index.of(Command):
        yield "command", f"`{command.line}`"
        yield "seed, schedule", f"{command.seed}, {command.digest}"
        yield "duration of faults", f"{command.minutes:g} min"
        yield "settings", ", ".join(f"{name}={value}" for name, value in command.settings.items())


def _faults(entries: Sequence[Entry]) -> Iterator[str]:
    found = [*recoveries(entries), overall(entries)]
    yield from _table(
        ("fault", "target", "times", "median recovery time", "worst", "no recovery"),
        [
            (
                each.kind,
                each.target_type,
                str(each.faults),
                _seconds(each.median),
                _seconds(each.worst),
                str(each.unfinished or ""),
            )
            for each in found
        ],
    )


def _problems(found_problems: Sequence[str]) -> Iterator[str]:
    if not found_problems:
        yield "Every check of the audit passes."
    for problem in found_problems[:_MAX_SHOWN]:
        yield f"- {problem}"
    if len(found_problems) > _MAX_SHOWN:
        yield f"- … and {len(found_problems) - _MAX_SHOWN} more"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield "|---" * len(head) + "|"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def _list_counts(counts: Counter[str]) -> str:
    return "; ".join(f"{count} × {what}" for what, count in counts.most_common()) or "none"


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.1f} s"


def _spread(values: Sequence[float]) -> str:
    return f"{median(values):.1f} s, {values[-1]:.1f} s" if values else "none"


def _duration(entries: Sequence[Entry]) -> str:
    moments = [entry.at for entry in entries if isinstance(entry, Phase)]
    return f"{(max(moments) - min(moments)) / 60:.1f} min" if moments else "unknown"
