"""Write the corpus' table into docs/AUDIO.md: ``python -m tests.processor.corpus.table``."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

from pipeline.errors import PermanentError
from tests.processor.corpus.cases import Case, cases
from tests.processor.corpus.measure import (
    Difference,
    decode,
    decode_with_ffmpeg,
    decode_with_libsndfile,
    difference,
    path_of,
    song,
    write_corpus,
)
from tests.processor.source_files import Signal

PAGE = Path(__file__).resolve().parents[3] / "docs" / "AUDIO.md"
BEGIN, END = "<!-- corpus: begin -->", "<!-- corpus: end -->"
_HEAD = """\
| file | length | place | SNR | silence | `ffmpeg` command | libsndfile |
|---|---|---|---|---|---|---|
"""


def table() -> str:
    """Return the table of all cases in Markdown."""
    everything = cases()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_corpus(folder, everything)
        by_ffmpeg = decode_with_ffmpeg(folder, [case for case in everything if case.edit is None])
        return _HEAD + "".join(_row(folder, case, by_ffmpeg.get(case.name)) for case in everything)


def _row(folder: Path, case: Case, by_ffmpeg: Signal | None) -> str:
    path = path_of(folder, case)
    try:
        signal = decode(path).signal
    except PermanentError as error:
        return f"| {case.name} | `{error.code}` | | | | | |\n"
    found = difference(signal, song(case))
    by_libsndfile = decode_with_libsndfile(path) if case.edit is None else None
    others = [
        "" if reference is None else _compared(difference(signal, reference))
        for reference in (by_ffmpeg, by_libsndfile)
    ]
    silence = f"{found.silence / case.rate:.2f} s" if found.silence else ""
    cells = [case.name, f"{found.frames:+d}", f"{found.delay:+d}", _decibels(found.snr), silence, *others]
    return f"| {' | '.join(cells)} |\n"


def _compared(found: Difference) -> str:
    if (found.frames, found.delay, found.snr) == (0, 0, math.inf):
        return "equal"
    return f"{found.frames:+d}, {found.delay:+d}, {_decibels(found.snr)}"


def _decibels(snr: float) -> str:
    return "exact" if snr == math.inf else f"{snr:.0f} dB"


def main() -> None:
    """Replace the table in the page."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    PAGE.write_text(f"{before}{BEGIN}\n{table()}{END}{after}")


if __name__ == "__main__":
    main()
