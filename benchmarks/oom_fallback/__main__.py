"""``OMP_WAIT_POLICY=PASSIVE python -m benchmarks.ladder``: a song of the demo, small models, every rung; a table for
docs/MODELS.md.

The demo model is the one that separates. The others are untrained: their figures say what the cuts do to the
arithmetic, and not what would be heard of a trained model.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.engines import our_engine
from benchmarks.page import markdown_table
from demo import tiny_models
from demo.centre_model import DEMO_MODEL_NAME, write_demo_model
from demo.sdr import sdr_db
from demo.song import render_song
from demo.tiny_models import DemucsModel
from processor.audio.wav import Samples, write_wav
from processor.engine.oom_fallback import fallback_steps
from processor.separation.separator import Separator

#: More than the longer chunks have, s.
SECONDS = 40.0

_STEMS = ["drums", "bass", "other", "vocals"]
_TRANSFORMER = {"channels": 4, "dconv_comp": 2, "t_layers": 1, "t_heads": 2, "t_hidden_scale": 1.0}
DEMUCS = {
    "HDemucs": DemucsModel("hdemucs.HDemucs", {"sources": _STEMS, "channels": 4, "segment": 8}),
    "HTDemucs": DemucsModel("htdemucs.HTDemucs", {"sources": _STEMS, "segment": Fraction(39, 5), **_TRANSFORMER}),
}
LAYOUT = "1band_sr44100_hl512"


def main() -> int:
    """Write the table to the terminal."""
    with tempfile.TemporaryDirectory() as folder:
        lines = list(_lines(Path(folder)))
    sys.stdout.write(f"{markdown_table(('model', 'given up', 'worst stem, dB'), lines)}\n")
    return 0


def _lines(folder: Path) -> Iterator[tuple[str, str, str]]:
    song = folder / "song.wav"
    samples = render_song(seconds=SECONDS).mixture.T.astype(np.float32)
    write_wav(song, [samples / np.abs(samples).max()], channels=2)
    for title, model_dir, name in _models(folder):
        separator = our_engine(model_dir, folder).load(name)
        top, *lower = fallback_steps(separator, len(samples))
        full = _separated(top.separator, song)
        for step in lower:
            yield title, ", ".join(step.steps), f"{_worst(full, _separated(step.separator, song)):.1f}"


def _models(folder: Path) -> Iterator[tuple[str, Path, str]]:
    """A title, the folder and the name of each."""
    yield "MDX, the demo's", write_demo_model(folder / "mdx").parent, DEMO_MODEL_NAME
    tiny_models.write_demucs_models(folder / "demucs", DEMUCS)
    for title in DEMUCS:
        yield f"{title}, untrained", folder / "demucs", f"{title}.yaml"
    tiny_models.write_vr(folder / "vr", LAYOUT)
    yield "VR 5.1, untrained", folder / "vr", f"{LAYOUT}.pth"
    yield "MDX23C, untrained", folder / "mdxc", tiny_models.write_mdxc(folder / "mdxc", _STEMS, name="mdx23c")
    yield "Roformer, untrained", folder / "mdxc", tiny_models.write_roformer(folder / "mdxc", _STEMS, name="roformer")


def _separated(separator: Separator, song: Path) -> dict[str, NDArray[np.float32]]:
    blocks: dict[str, list[Samples]] = {}
    separator.separate(song, lambda name, block: blocks.setdefault(name, []).append(block.copy()), lambda _: None)
    return {name: np.concatenate(parts) for name, parts in blocks.items()}


def _worst(full: dict[str, NDArray[np.float32]], lighter: dict[str, NDArray[np.float32]]) -> float:
    """The smallest of the stems' signal-to-noise ratios, dB."""
    return min(sdr_db(stem.T, lighter[name].T) for name, stem in full.items())


if __name__ == "__main__":
    sys.exit(main())
