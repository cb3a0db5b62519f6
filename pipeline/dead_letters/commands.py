"""The commands: each reads the topic anew, prints its result to standard output and returns the exit status."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pipeline.dead_letters import table
from pipeline.dead_letters.filters import LetterFilter
from pipeline.dead_letters.letter import Letter, Position, read_letters
from pipeline.dead_letters.replay import Replay, drop, prepare, replay
from pipeline.errors import PermanentError
from pipeline.service.command_line import print_error, print_lines
from pipeline.topics import Topics
from pipeline.transport.protocol import Transport

DONE = 0
#: At least one requested letter could not be processed; the reason is on standard error.
NOT_DONE = 1


@dataclass(frozen=True, slots=True)
class DeadLetterCommands:
    """Commands on the dead letters of one broker.

    With ids, a command acts at once. With filters, it shows the letters that it would act on unless ``confirmed``.
    Every command raises InfrastructureError if the broker does not answer.
    """

    transport: Transport
    topics: Topics
    broker: str
    """The addresses or the file of the broker, for messages."""

    def list(self, filters: LetterFilter, *, include_resolved: bool = False, as_json: bool = False) -> int:
        """List the selected letters, one a line. Replayed and dropped letters appear if ``include_resolved``."""
        candidates = (letter for letter in self._letters() if include_resolved or not letter.marks)
        letters = filters.select(candidates, time.time())
        if not letters:
            return self._report_no_match()
        if as_json:
            print_lines(map(table.as_json, letters))
        else:
            table.print_letters(letters, with_resolution=include_resolved)
        return DONE

    def show(self, position: Position, *, raw: bool = False) -> int:
        """Show all facts of one letter, resolved or not. ``raw`` shows URLs with their secrets."""
        letter = next((letter for letter in self._letters() if letter.position == position), None)
        if letter is None:
            return self._report_unknown([position], ())
        try:
            replay_result = f"goes to {_target(prepare(letter, self.topics))}"
        except PermanentError as error:
            replay_result = error.message
        print_lines(table.details(letter, replay_result, raw=raw))
        return DONE

    def replay(
        self, ids: Sequence[Position], filters: LetterFilter, *, confirmed: bool = False, again: bool = False
    ) -> int:
        """Publish the messages again. ``again`` includes letters that were replayed or dropped before."""
        letters = self._letters()
        selected = self._select(letters, ids, filters, again=again)
        prepared: list[Replay] = []
        for letter in selected:
            try:
                prepared.append(prepare(letter, self.topics))
            except PermanentError as error:
                print_error(f"{letter.position}: {error.message}")
        if selected and not (ids or confirmed):
            return _preview("replay", [item.letter for item in prepared])
        for item in replay(self.transport, prepared):
            print_lines([f"{item.letter.position}: replayed to {_target(item)}"])
        unknown = self._report_unknown(ids, letters)
        return NOT_DONE if len(prepared) < len(selected) else unknown

    def drop(self, ids: Sequence[Position], filters: LetterFilter, *, confirmed: bool = False) -> int:
        """Mark the letters as of no further use."""
        letters = self._letters()
        selected = self._select(letters, ids, filters, again=False)
        if selected and not (ids or confirmed):
            return _preview("drop", selected)
        drop(self.transport, selected)
        print_lines(f"{letter.position}: dropped" for letter in selected)
        return self._report_unknown(ids, letters)

    def _letters(self) -> Sequence[Letter]:
        return read_letters(self.transport.browse(self.topics.dead_letters))

    def _select(
        self, letters: Sequence[Letter], ids: Sequence[Position], filters: LetterFilter, *, again: bool
    ) -> Sequence[Letter]:
        """Return the letters to act on. Unless ``again``, named letters that are resolved are reported and left out."""
        if not ids:
            selected = filters.select((letter for letter in letters if not letter.marks), time.time())
            if not selected:
                self._report_no_match()
            return selected
        named = [letter for letter in letters if letter.position in set(ids)]
        resolved = [letter for letter in named if letter.marks and not again]
        print_lines(f"{letter.position}: nothing to do, {table.resolution(letter)}" for letter in resolved)
        return [letter for letter in named if letter not in resolved]

    def _report_no_match(self) -> int:
        print_error(f"no such dead letters in {self.topics.dead_letters} at {self.broker}")
        return DONE

    def _report_unknown(self, ids: Sequence[Position], letters: Iterable[Letter]) -> int:
        """Report each of ``ids`` that is not among ``letters``. Returns the exit status."""
        known = {letter.position for letter in letters}
        unknown = [position for position in dict.fromkeys(ids) if position not in known]
        for position in unknown:
            print_error(f"{position}: no such dead letter in {self.topics.dead_letters} at {self.broker}")
        return NOT_DONE if unknown else DONE


def _target(item: Replay) -> str:
    return f"{item.message.topic}, as the new run {item.run}" if item.run else f"{item.message.topic}, as it was"


def _preview(verb: str, letters: Sequence[Letter]) -> int:
    table.print_letters(letters)
    print_lines(["", f"would {verb} {len(letters)}; nothing was done, add --yes to confirm"])
    return DONE
