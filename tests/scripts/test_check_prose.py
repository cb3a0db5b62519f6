"""The prose check finds idioms and clause openers where prose stands, and nothing in code."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.check_prose import IDIOMS, check_text, main

MODULE = Path("module.py")


def problems(path: Path, text: str) -> list[str]:
    return [str(finding) for finding in check_text(path, text)]


@pytest.mark.parametrize("opener", ["What is left", "Whether it works", "Of the song", "In which order", "for tests"])
def test_docstring_that_opens_with_a_clause_is_found(opener: str) -> None:
    text = f'import os\n\n\ndef name():\n    """{opener}."""\n'
    assert len(problems(MODULE, text)) == 1
    assert problems(MODULE, text)[0].startswith("module.py:5: the docstring opens with")


@pytest.mark.parametrize("text", ['"""Whatever fits."""', "Returns what is left.", "Forward the call.", "Ask whom."])
def test_verbs_and_longer_words_pass(text: str) -> None:
    opened = text.strip('"')
    assert problems(MODULE, f'def name():\n    """{opened}"""\n') == []


def test_class_and_module_docstrings_may_open_with_a_noun_phrase() -> None:
    assert problems(MODULE, '"""For tests."""\n\n\nclass Name:\n    """As a class."""\n') == []


def test_method_and_property_docstrings_are_checked() -> None:
    text = 'class Name:\n    @property\n    def size(self):\n        """How large it is."""\n'
    assert len(problems(MODULE, text)) == 1


def test_idioms_are_found_in_docstrings_comments_and_test_names() -> None:
    text = '"""Obeys the caller."""\n\n# whoever asks\n\n\ndef test_nobody_is_there():\n    x = 1  # told\n'
    assert [problem.split(": ")[:2] for problem in problems(MODULE, text)] == [
        ["module.py:1", '"Obeys"'],
        ["module.py:3", '"whoever"'],
        ["module.py:6", '"nobody"'],
        ["module.py:7", '"told"'],
    ]


def test_idiom_across_a_line_break_is_found_at_its_first_line() -> None:
    found = problems(Path("page.md"), "One line.\nThis is as\never.\n")
    assert len(found) == 1
    assert found[0].startswith('page.md:2: "as ever"')


def test_code_and_string_literals_are_not_prose() -> None:
    assert problems(MODULE, 'told = "nobody"\n') == []
    assert problems(Path("page.md"), "```sh\nsay hello\n```\n") == []
    assert problems(Path("start.sh"), "say 'x'\ntold=1\n") == []


def test_shell_messages_and_comments_are_prose() -> None:
    found = problems(Path("start.sh"), '# whoever runs it\nsay "nobody is there"\n')
    assert [problem.split(":")[1] for problem in found] == ["1", "2"]


@pytest.mark.parametrize("name", ["page.md", "compose.yml", "job.yaml", "Makefile", "Dockerfile", ".env.example"])
def test_text_files_are_checked(name: str) -> None:
    assert len(problems(Path(name), "# whoever\n")) == 1


def test_line_numbers_after_a_code_block_are_right() -> None:
    found = problems(Path("page.md"), "```sh\nls\n```\n\nIt is told.\n")
    assert found[0].startswith("page.md:5:")


def test_escape_comment_allows_one_line() -> None:
    assert problems(MODULE, "# told  prose: allow\n# told\n")[0].startswith("module.py:2:")
    assert problems(Path("page.md"), "told <!-- prose: allow -->\n") == []


def test_other_kinds_of_files_are_ignored() -> None:
    assert problems(Path("data.json"), '{"told": 1}') == []


def test_every_idiom_has_its_own_advice() -> None:
    for pattern, advice in IDIOMS.items():
        word = pattern.split("|")[0].replace("?", "")
        if "(" not in word:
            assert problems(Path("page.md"), f"{word}\n") == [f'page.md:1: "{word}": {advice}']


def test_exit_status_and_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clean, odd, binary = tmp_path / "clean.md", tmp_path / "odd.md", tmp_path / "song.md"
    clean.write_text("Plain.\n")
    odd.write_text("Told.\n")
    binary.write_bytes(b"\xff\xfe\x00")
    assert main([str(clean), str(binary)]) == 0
    assert capsys.readouterr().out == ""
    assert main([str(odd)]) == 1
    assert f'{odd}:1: "Told"' in capsys.readouterr().out
