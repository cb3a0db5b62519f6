"""python -m benchmarks.resampling [--write PAGE]: measure the sample-rate conversion (a minute)."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from benchmarks.page import deliver, markdown_table, marks
from benchmarks.resampling.measures import (
    RATES,
    Converter,
    alias_level,
    decoded_song_snr,
    ffmpeg_default,
    librosa_default,
    milliseconds,
    ours,
    passband_ripple,
    song_snr,
    stream_snr,
)
from processor.audio.wav import SAMPLE_RATE

BEGIN, END = marks("bench-resampling")
_SONG_SECONDS = 30.0
_HEAD = ("", "gain up to 20 kHz", "aliases and images", "signal to difference from VHQ", "3 minutes of stereo")
_OTHERS: tuple[tuple[str, Converter], ...] = (
    ("this service", ours),
    ("audio-separator (librosa's `soxr_hq`)", librosa_default),
    ("FFmpeg's default", ffmpeg_default),
)


def _line(name: str, rates: tuple[int, int], convert: Converter = ours) -> list[str]:
    return [
        name,
        f"±{passband_ripple(*rates, convert):.3f} dB",
        f"{alias_level(*rates, convert):.0f} dB",
        f"{stream_snr(*rates, convert):.0f} dB",
        f"{milliseconds(*rates, convert):.0f} ms",
    ]


def resampling_report() -> str:
    """Return both tables in Markdown."""
    pairs = [*((rate, SAMPLE_RATE) for rate in RATES), *((SAMPLE_RATE, rate) for rate in RATES)]
    own = markdown_table(_HEAD, (_line(f"{rate} → {target} Hz", (rate, target)) for rate, target in pairs))
    lines = [[*_line(name, (48_000, SAMPLE_RATE), convert), _song(convert)] for name, convert in _OTHERS]
    return f"{own}\n\n{markdown_table(('48000 → 44100 Hz', *_HEAD[1:], 'a song'), lines)}"


def _song(convert: Converter) -> str:
    if convert is not ours:
        return f"{song_snr(convert, _SONG_SECONDS):.0f} dB"
    with tempfile.TemporaryDirectory() as folder:
        return f"{decoded_song_snr(Path(folder), _SONG_SECONDS):.0f} dB"


def main() -> int:
    """Measure, and print the report or insert it into a page. Returns 0."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.resampling", description="The report goes to stdout.")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="insert the report into PAGE instead")
    deliver(resampling_report(), parser.parse_args().write, BEGIN, END)
    return 0


if __name__ == "__main__":
    sys.exit(main())
