"""Every container and codec decodes to the song: its length, its place and its samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.errors import ErrorCode, PermanentError
from tests.processor.corpus.cases import Case, cases
from tests.processor.corpus.measure import (
    decode,
    decode_with_ffmpeg,
    decode_with_libsndfile,
    difference,
    path_of,
    song,
    write_corpus,
)
from tests.processor.source_files import Signal

ALL = cases()
#: The signal-to-noise ratio of two decoders of the same lossy codec, dB.
SAME = 60.0
PAGE = Path(__file__).resolve().parents[3] / "docs" / "AUDIO.md"


@dataclass(frozen=True)
class Corpus:
    """The files, and what the ``ffmpeg`` command decodes by the name of the case."""

    folder: Path
    by_ffmpeg: Mapping[str, Signal]


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(folder, ALL)
    return Corpus(folder, decode_with_ffmpeg(folder, [case for case in ALL if case.edit is None and case.as_ffmpeg]))


@pytest.mark.parametrize("case", [case for case in ALL if not case.refused], ids=lambda case: case.name)
def test_song_has_its_length_place_and_samples(corpus: Corpus, case: Case) -> None:
    decoded = decode(path_of(corpus.folder, case))
    found = difference(decoded.signal, song(case))
    assert (decoded.rate, found.frames, found.delay) == (case.rate, case.extra, case.delay)
    assert found.snr >= case.snr
    assert found.silence / case.rate == pytest.approx(case.silence, abs=0.03)
    is_changed = case.channels > 2 or case.silence or case.leading
    assert bool(decoded.notes) == bool(is_changed)


@pytest.mark.parametrize("case", [case for case in ALL if case.refused], ids=lambda case: case.name)
def test_truncated_file_is_refused(corpus: Corpus, case: Case) -> None:
    with pytest.raises(PermanentError) as caught:
        decode(path_of(corpus.folder, case))
    assert caught.value.code is ErrorCode.AUDIO_CORRUPT


def test_ffmpeg_command_decodes_the_same(corpus: Corpus) -> None:
    for case in ALL:
        if case.name in corpus.by_ffmpeg:
            found = difference(decode(path_of(corpus.folder, case)).signal, corpus.by_ffmpeg[case.name])
            assert (case.name, found.frames, found.delay) == (case.name, 0, 0)
            assert found.snr > SAME, case.name


def test_libsndfile_decodes_the_same(corpus: Corpus) -> None:
    compared = 0
    for case in ALL:
        reference = decode_with_libsndfile(path_of(corpus.folder, case)) if case.edit is None else None
        if reference is not None:
            found = difference(decode(path_of(corpus.folder, case)).signal, reference)
            # libsndfile does not remove the padding of codecs with blocks of fixed size.
            assert (case.name, found.delay) == (case.name, 0)
            assert found.frames == 0 or "adpcm" in case.name or case.name == "wav mp3lame"
            assert found.snr > SAME, case.name
            compared += 1
    assert compared > 30


def test_table_in_the_documentation_has_every_case() -> None:
    rows = [line.split(" | ")[0].removeprefix("| ") for line in PAGE.read_text().splitlines()]
    assert [case.name for case in ALL if case.name not in rows] == []
