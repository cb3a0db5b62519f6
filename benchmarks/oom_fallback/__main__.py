"""``OMP_WAIT_POLICY=PASSIVE python -m benchmarks.oom_fallback``: the accuracy of every fallback step.

Separates a demo song with small models and prints a table for docs/MODELS.md. Only the demo model is a useful
separator. The others are untrained: their figures show the numeric effect of other segments and chunks, and not what
is audible with a trained model.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.engines import offline_engine
from benchmarks.page import markdown_table
from demo import tiny_models
from demo.centre_model import DEMO_MODEL_NAME, write_demo_model
from demo.sdr import sdr_db
from demo.song import render_song
from demo.tiny_models import DemucsModel
from processor.audio.wav import Samples, write_wav
from processor.engine.oom_fallback import fallback_steps
from processor.separation.separator import Separator

#: Length of the song, longer than the longest chunks, s.
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
    sys.stdout.write(f"{markdown_table(('model', 'reductions', 'worst stem, dB'), lines)}\n")
    return 0


def _lines(folder: Path) -> Iterator[tuple[str, str, str]]:
    song = folder / "song.wav"
    samples = render_song(seconds=SECONDS).mixture.T.astype(np.float32)
    write_wav(song, [samples / np.abs(samples).max()], channels=2)
    for title, model_dir, name in _models(folder):
        separator = offline_engine(model_dir, folder).load(name)
        first, *reduced = fallback_steps(separator, len(samples))
        reference = _stems(first.separator, song)
        for step in reduced:
            stems = _stems(step.separator, song)
            worst = min(sdr_db(stem.T, stems[stem_name].T) for stem_name, stem in reference.items())
            yield title, ", ".join(step.reductions), f"{worst:.1f}"


def _models(folder: Path) -> Iterator[tuple[str, Path, str]]:
    """Yield the title, the folder and the name of each model."""
    yield "MDX, the demo's", write_demo_model(folder / "mdx").parent, DEMO_MODEL_NAME
    tiny_models.write_demucs_models(folder / "demucs", DEMUCS)
    for title in DEMUCS:
        yield f"{title}, untrained", folder / "demucs", f"{title}.yaml"
    tiny_models.write_vr(folder / "vr", LAYOUT)
    yield "VR 5.1, untrained", folder / "vr", f"{LAYOUT}.pth"
    yield "MDX23C, untrained", folder / "mdxc", tiny_models.write_mdxc(folder / "mdxc", _STEMS, name="mdx23c")
    yield "Roformer, untrained", folder / "mdxc", tiny_models.write_roformer(folder / "mdxc", _STEMS, name="roformer")


def _stems(separator: Separator, song: Path) -> dict[str, NDArray[np.float32]]:
    blocks: dict[str, list[Samples]] = {}
    separator.separate(song, lambda name, block: blocks.setdefault(name, []).append(block.copy()), lambda _: None)
    return {name: np.concatenate(parts) for name, parts in blocks.items()}


if __name__ == "__main__":
    sys.exit(main())
