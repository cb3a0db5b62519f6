"""The run as a page of Markdown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from statistics import median

from tests.chaos.audit import figures, problems
from tests.chaos.books import Books
from tests.chaos.ledger import Began, Command, Entry, Phase, Quit, Skipped
from tests.chaos.recovery import overall, recoveries

_SHOWN = 40
"""Problems that are written out."""


def page(entries: Sequence[Entry]) -> str:
    """The whole report."""
    wrong = problems(entries)
    parts = (["# Chaos"], _run(entries, wrong), _faults(entries), _problems(wrong))
    return "\n\n".join("\n".join(part) for part in parts)


def _run(entries: Sequence[Entry], wrong: Sequence[str]) -> Iterator[str]:
    books = Books(entries)
    counted = figures(entries)
    began = Counter(entry.target for entry in books.of(Began))
    skipped = Counter(f"{entry.kind} of {entry.target}: {entry.why}" for entry in books.of(Skipped))
    quits = Counter(f"{entry.service} with status {entry.status}" for entry in books.of(Quit))
    refusals = sorted(answer.seconds for answer in books.answered.values() if answer.status == 503)
    yield from _table(
        ("", ""),
        [
            *_command(books),
            ("duration, all in all", _duration(entries)),
            ("faults injected", f"{began.total()}"),
            ("faults left out", _listed(skipped)),
            ("requests for jobs, repeated until 202", f"{counted.posts}"),
            ("jobs accepted (202)", f"{counted.accepted}"),
            ("… and told of", f"{counted.told}"),
            ("**losses**", f"**{counted.lost}**"),
            ("**contradictory outcomes**", f"**{counted.contradictions}**"),
            ("webhooks taken more than once", f"{counted.webhooks_repeated}"),
            ("separations done more than once", f"{counted.separations_repeated}"),
            ("503 answers (median, slowest)", f"{counted.refused} ({_spread(refusals)})"),
            ("no answer", f"{counted.unanswered}"),
            ("… and the job came to be", f"{counted.unknown_accepted}"),
            ("503, and the job came to be", f"{counted.accepted_after_refusal}"),
            ("poison: children killed, jobs quarantined", f"{counted.poison_taken}, {counted.quarantined}"),
            ("services that ended by themselves", _listed(quits)),
            ("the ledger", "holds" if not wrong else f"does not hold: {len(wrong)} problems"),
        ],
    )


def _command(books: Books) -> Iterator[tuple[str, str]]:
    for command in books.of(Command):
        yield "command", f"`{command.line}`"
        yield "seed, schedule", f"{command.seed}, {command.digest}"
        yield "faults for", f"{command.minutes:g} min"
        yield "settings", ", ".join(f"{name}={value}" for name, value in command.settings.items())


def _faults(entries: Sequence[Entry]) -> Iterator[str]:
    found = [*recoveries(entries), overall(entries)]
    yield from _table(
        ("fault", "target", "times", "time to recover, median", "worst", "nothing came after it"),
        [
            (
                each.kind,
                each.sort,
                str(each.faults),
                _seconds(each.median),
                _seconds(each.worst),
                str(each.unfinished or ""),
            )
            for each in found
        ],
    )


def _problems(wrong: Sequence[str]) -> Iterator[str]:
    if not wrong:
        yield "Every check of the ledger holds."
    for problem in wrong[:_SHOWN]:
        yield f"- {problem}"
    if len(wrong) > _SHOWN:
        yield f"- … and {len(wrong) - _SHOWN} more"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield "|---" * len(head) + "|"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def _listed(counts: Counter[str]) -> str:
    return "; ".join(f"{count} × {what}" for what, count in counts.most_common()) or "none"


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.1f} s"


def _spread(values: Sequence[float]) -> str:
    return f"{median(values):.1f} s, {values[-1]:.1f} s" if values else "none"


def _duration(entries: Sequence[Entry]) -> str:
    moments = [entry.at for entry in entries if isinstance(entry, Phase)]
    return f"{(max(moments) - min(moments)) / 60:.1f} min" if moments else "unknown"
