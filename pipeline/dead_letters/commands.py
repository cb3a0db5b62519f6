"""The commands: each reads the topic anew, says on standard output what it found or did, and gives the exit status."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pipeline.dead_letters import table
from pipeline.dead_letters.filters import Selection
from pipeline.dead_letters.letter import Letter, Position, letters_of
from pipeline.dead_letters.replay import Replay, drop, prepare, replay
from pipeline.errors import PermanentError
from pipeline.topics import Topics
from pipeline.transport.protocol import Transport

DONE = 0
#: Something that was asked for could not be done; the reason is on standard error.
NOT_DONE = 1


@dataclass(frozen=True, slots=True)
class DeadLetterCommands:
    """Where an operator works on dead letters. Every command raises InfrastructureError if the broker does not answer.

    A command that is given ids acts at once; one that is given a selection shows what it would do unless ``sure``.
    """

    transport: Transport
    topics: Topics
    place: str
    """The broker's addresses or file, for people."""

    def list(self, selection: Selection, *, resolved: bool = False, as_json: bool = False) -> int:
        """A line for each letter; those that were replayed or dropped only if ``resolved``."""
        found = selection.of((letter for letter in self._letters() if resolved or not letter.marks), time.time())
        if not found:
            return self._nothing()
        _say(map(table.as_json, found) if as_json else table.letters_table(found, with_resolution=resolved))
        return DONE

    def show(self, position: Position, *, raw: bool = False) -> int:
        """Everything about one letter, resolved or not. ``raw``: URLs with their secrets."""
        letter = next((letter for letter in self._letters() if letter.position == position), None)
        if letter is None:
            return self._missing([position])
        _say(table.details(letter, self._replayed_as(letter), raw=raw))
        return DONE

    def replay(self, ids: Sequence[Position], selection: Selection, *, sure: bool = False, again: bool = False) -> int:
        """Send the messages on their way; ``again``: even those that were replayed or dropped before."""
        letters = self._letters()
        chosen = self._chosen(letters, ids, selection, again=again)
        prepared, refused = self._prepared(chosen)
        if chosen and not (ids or sure):
            return _preview("replay", [item.letter for item in prepared])
        for item in replay(self.transport, prepared):
            _say([f"{item.letter.position}: replayed to {_target(item)}"])
        return NOT_DONE if refused or self._missing(_unknown(ids, letters)) else DONE

    def drop(self, ids: Sequence[Position], selection: Selection, *, sure: bool = False) -> int:
        """Mark the letters as of no further use."""
        letters = self._letters()
        chosen = self._chosen(letters, ids, selection, again=False)
        if chosen and not (ids or sure):
            return _preview("drop", chosen)
        drop(self.transport, chosen)
        _say(f"{letter.position}: dropped" for letter in chosen)
        return self._missing(_unknown(ids, letters))

    def _letters(self) -> Sequence[Letter]:
        return letters_of(self.transport.browse(self.topics.dead_letters))

    def _chosen(
        self, letters: Sequence[Letter], ids: Sequence[Position], selection: Selection, *, again: bool
    ) -> Sequence[Letter]:
        """The letters that are meant; of those that were dealt with before it is said when, unless ``again``."""
        if not ids:
            chosen = selection.of((letter for letter in letters if not letter.marks), time.time())
            if not chosen:
                self._nothing()
            return chosen
        named = [letter for letter in letters if letter.position in set(ids)]
        done_before = [letter for letter in named if letter.marks and not again]
        _say(f"{letter.position}: nothing to do, {table.resolution(letter)}" for letter in done_before)
        return [letter for letter in named if letter not in done_before]

    def _prepared(self, letters: Iterable[Letter]) -> tuple[Sequence[Replay], Sequence[Letter]]:
        """What to publish, and the letters that cannot be replayed; why is said."""
        prepared, refused = [], []
        for letter in letters:
            try:
                prepared.append(prepare(letter, self.topics))
            except PermanentError as error:
                refused.append(letter)
                _complain(f"{letter.position}: {error.message}")
        return prepared, refused

    def _replayed_as(self, letter: Letter) -> str:
        try:
            return f"goes to {_target(prepare(letter, self.topics))}"
        except PermanentError as error:
            return error.message

    def _nothing(self) -> int:
        _complain(f"no such dead letters in {self.topics.dead_letters} at {self.place}")
        return DONE

    def _missing(self, ids: Sequence[Position]) -> int:
        for position in ids:
            _complain(f"{position}: no such dead letter in {self.topics.dead_letters} at {self.place}")
        return NOT_DONE if ids else DONE


def _unknown(ids: Sequence[Position], letters: Iterable[Letter]) -> Sequence[Position]:
    known = {letter.position for letter in letters}
    return [position for position in dict.fromkeys(ids) if position not in known]


def _target(item: Replay) -> str:
    return f"{item.message.topic}, as the new run {item.run}" if item.run else f"{item.message.topic}, as it was"


def _preview(verb: str, letters: Sequence[Letter]) -> int:
    _say([*table.letters_table(letters), "", f"would {verb} {len(letters)}; nothing was done, --yes does it"])
    return DONE


def _say(lines: Iterable[str]) -> None:
    sys.stdout.writelines(f"{line}\n" for line in lines)


def _complain(sentence: str) -> None:
    sys.stderr.write(f"{table.printable(sentence)}\n")
