"""The results as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import version
from statistics import median

from benchmarks.page import machine, markdown_table, marks
from benchmarks.quality.results import MIXTURE, Result, Scores

BEGIN, END = marks("bench-quality")

_NAMES = {MIXTURE: "mixture", "engine": "**this engine**", "upstream": "audio-separator"}
_MEASURES: tuple[tuple[str, Callable[[Scores], float | None]], ...] = (
    ("SDR", lambda scores: scores.sdr),
    ("SI-SDR", lambda scores: scores.si_sdr),
    ("SIR", lambda scores: scores.sir),
)
_ALL = "*all songs*"


def quality_page(models: Sequence[tuple[str, Sequence[Result]]], *, quick: bool) -> str:
    """Return the report without the headline of the page. ``models``: the name and all results of each model."""
    setting = [machine(), _versions()]
    if quick:
        setting.append("**A quick run: few short songs. It only shows that the benchmark works.**")
    return "\n\n".join([" ".join(setting), *(_model(name, results) for name, results in models)])


def _versions() -> str:
    names = ("audio-separator", "onnxruntime", "torch", "torchmetrics")
    return f"{', '.join(f'{name} {version(name)}' for name in names)}."


def _model(name: str, results: Sequence[Result]) -> str:
    stems = dict.fromkeys(result.stem for result in results if result.contender != MIXTURE)
    parts = [f"### `{name}`", *(_stem(stem, [each for each in results if each.stem == stem]) for stem in stems)]
    leaks = [result for result in results if result.scores.leak is not None and result.contender != MIXTURE]
    if leaks:
        parts.append(_leaks(leaks))
    return "\n\n".join(parts)


def _stem(stem: str, results: Sequence[Result]) -> str:
    scored = [result for result in results if result.scores.sdr is not None]
    head = ["", *(f"{measure}: {_NAMES[name]}" for measure, _ in _MEASURES for name in _NAMES)]
    songs = list(dict.fromkeys(result.song for result in scored))
    lines = [_line(song, [result for result in scored if result.song == song]) for song in songs]
    if len(songs) > 1 and len(scored) <= len(songs) * len(_NAMES):  # songs, not styles with several songs each
        lines.append(_line(_ALL, scored))
    return f"{stem[0].upper()}{stem[1:]}, dB:\n\n{markdown_table(head, lines)}"


def _line(song: str, results: Sequence[Result]) -> tuple[str, ...]:
    cells = [
        _cell(value(result.scores) for result in results if result.contender == name)
        for _, value in _MEASURES
        for name in _NAMES
    ]
    return song, *cells


def _leaks(leaks: Sequence[Result]) -> str:
    contenders = [name for name in _NAMES if name != MIXTURE]
    lines = []
    for song, stem in dict.fromkeys((result.song, result.stem) for result in leaks):
        own = [result for result in leaks if (result.song, result.stem) == (song, stem)]
        found = [[result.scores.leak for result in own if result.contender == name] for name in contenders]
        lines.append((f"{song}: {stem}", *(_cell(values, worst=max) for values in found)))
    text = "Energy in stems that should be silent, relative to the mixture's, dB:"
    return f"{text}\n\n{markdown_table(('', *(_NAMES[name] for name in contenders)), lines)}"


def _cell(found: Iterable[float | None], worst: Callable[[list[float]], float] = min) -> str:
    """Return the median, and the worst of several values."""
    values = [value for value in found if value is not None]
    if not values:
        return ""
    suffix = f" ({worst(values):.1f})" if len(values) > 1 else ""
    return f"{median(values):.1f}{suffix}"
