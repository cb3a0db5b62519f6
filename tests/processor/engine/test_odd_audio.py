"""Unusual songs with the decoder and models of all four architectures: correct stems, or a clear error."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from demo import tiny_models
from demo.centre_model import DEMO_MODEL_NAME
from demo.tiny_models import DemucsModel
from pipeline.errors import ErrorCode, ErrorKind
from processor.audio.decode import Mixture
from processor.audio.wav import write_wav
from processor.ipc import Stem
from tests.processor.separation import upstream_calls as calls
from tests.processor.separation.upstream_calls import Refusal, Stems, read
from tests.processor.source_files import RATE, Signal, decoded, noise, write_av, write_pcm

pytestmark = pytest.mark.slow

FOUR = ["drums", "bass", "other", "vocals"]
VR_HOP = 1024
#: Stems by architecture.
STEMS = {
    "mdx": {"vocals", "instrumental"},
    "mdxc": {"vocals", "instrumental"},
    "vr": {"drums", "no_drums"},
    "demucs": set(FOUR),
}

LOUD = np.sign(noise(0.2, seed=5)).astype(np.float32)


def pcm(signal: Signal, rate: int = RATE) -> Callable[[Path], Path]:
    return lambda path: write_pcm(path, signal, rate=rate, subtype="FLOAT", container="WAV")


#: Songs that are unusual for a model: how each is written, and its frames at 44.1 kHz.
SONGS: dict[str, tuple[Callable[[Path], Path], int]] = {
    "one sample": (pcm(noise(0.1)[:, :1]), 1),
    "a tenth of a second": (pcm(noise(0.1)), 4410),
    "silence": (pcm(np.zeros((2, 8820), np.float32)), 8820),
    "direct current": (pcm(np.full((2, 8820), 0.5, np.float32)), 8820),
    "channels that cancel out": (pcm(np.stack([LOUD[0], -LOUD[0]])), 8820),
    "full scale all the time": (pcm(LOUD), 8820),
}
#: Songs that are unusual for the decoder only.
SOURCES: dict[str, tuple[Callable[[Path], Path], int]] = {
    "far above full scale": (pcm(noise(0.2, peak=1e30)), 8820),
    "far below full scale": (pcm(noise(0.2, peak=1e-30)), 8820),
    "mono at 8 kHz": (pcm(noise(0.2, rate=8000, channels=1), 8000), 8820),
    "six channels at 192 kHz": (pcm(noise(0.2, rate=192_000, channels=6), 192_000), 8820),
    "AAC of less than a frame": (lambda path: write_av(path, noise(0.02), "aac", "mp4"), 882),
}


@dataclass(frozen=True)
class Harness:
    upstream_process: ProcessPoolExecutor
    scratch: Path
    models: dict[str, tuple[Path, str]]
    """Folder and name by architecture."""
    folder: Path

    def run(self, architecture: str, mixture: Mixture) -> tuple[Stem, ...] | Refusal:
        """Separate into a new folder, and check the files there."""
        out = self.folder / f"{architecture}-{len(list(self.folder.iterdir()))}"
        out.mkdir()
        models, name = self.models[architecture]
        outcome: tuple[Stem, ...] | Refusal = self.upstream_process.submit(
            calls.run, models, self.scratch, mixture, out, model=name
        ).result(90)[0]
        written = {path.stem for path in out.iterdir()}
        assert written == (set() if isinstance(outcome, Refusal) else {stem.name for stem in outcome})
        return outcome

    def stems(self, architecture: str, mixture: Mixture) -> Stems:
        """Separate successfully, and check all stems."""
        stems = self.run(architecture, mixture)
        assert not isinstance(stems, Refusal), stems
        assert {stem.name for stem in stems} == STEMS[architecture]
        for stem in stems:
            info, samples = soundfile.info(stem.path), read(stem)
            assert (info.frames, info.samplerate, info.channels) == (mixture.frames, RATE, 2)
            assert np.isfinite(samples).all()
            assert stem.peak == np.max(np.abs(samples))
        return {stem.name: read(stem) for stem in stems}

    def mixture(self, samples: Signal) -> Mixture:
        """Write a mixture that the decoder would not produce."""
        path = self.folder / "mixture.wav"
        write_wav(path, [samples.T], channels=2)
        return Mixture(path, 1.0, samples.shape[1], ())


@pytest.fixture(scope="module")
def models(
    upstream_process: ProcessPoolExecutor, model_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Path, str]]:
    folder = tmp_path_factory.mktemp("odd")
    vr, demucs = "1band_sr44100_hl1024", DemucsModel("hdemucs.HDemucs", {"sources": FOUR, "channels": 4, "segment": 2})

    def call(function: Callable[..., Any], *args: Any) -> Any:
        return upstream_process.submit(function, *args).result(90)

    call(tiny_models.write_vr, folder / "vr", vr)
    call(tiny_models.write_demucs_models, folder / "demucs", {"hybrid": demucs})
    return {
        "mdx": (model_dir, DEMO_MODEL_NAME),
        "mdxc": (folder / "mdxc", call(tiny_models.write_mdxc, folder / "mdxc", ["Vocals", "Instrumental"])),
        "vr": (folder / "vr", f"{vr}.pth"),
        "demucs": (folder / "demucs", "hybrid.yaml"),
    }


@pytest.fixture
def harness(
    upstream_process: ProcessPoolExecutor, scratch: Path, models: dict[str, tuple[Path, str]], tmp_path: Path
) -> Harness:
    return Harness(upstream_process, scratch, models, tmp_path)


@pytest.mark.parametrize("song", SONGS)
def test_stems_are_as_long_as_the_song_and_add_up(harness: Harness, song: str) -> None:
    write, frames = SONGS[song]
    whole = decoded(write(harness.folder / "song"))
    assert whole.mixture.frames == frames
    stems = {architecture: harness.stems(architecture, whole.mixture) for architecture in STEMS}
    # The stems of MDX and VR models add up to the mixture.
    assert np.max(np.abs(residual(whole.signal, stems["mdx"]))) <= 1e-6 * whole.mixture.peak
    # A VR model passes on neither the highest of its 1025 bins nor what is behind the last whole hop.
    end = frames // VR_HOP * VR_HOP
    rest = residual(whole.signal, stems["vr"])[:, :end] / (whole.mixture.peak or 1.0)
    assert np.sum(rest**2) <= 2 / 1025 * np.sum(whole.scaled[:, :end].astype(np.float64) ** 2)


@pytest.mark.parametrize("source", SOURCES)
def test_stems_have_the_level_of_any_source(harness: Harness, source: str) -> None:
    write, frames = SOURCES[source]
    whole = decoded(write(harness.folder / "song"))
    assert whole.mixture.frames == frames
    stems = harness.stems("mdx", whole.mixture)
    assert np.max(np.abs(residual(whole.signal, stems))) <= 1e-6 * whole.mixture.peak
    harness.stems("demucs", whole.mixture)


def residual(song: Signal, stems: Stems) -> NDArray[np.float64]:
    """Return the song minus all its stems."""
    total = np.sum([stem.astype(np.float64) for stem in stems.values()], axis=0)
    return np.asarray(song - total, np.float64)


@pytest.mark.parametrize("architecture", STEMS)
def test_level_of_a_song_only_scales_its_stems(harness: Harness, architecture: str) -> None:
    """A power of two is exact, also in the stems. A factor of 16 is far above full scale."""
    quiet, loud = (decoded(pcm(noise(0.2) * np.float32(factor))(harness.folder / f"{factor}")) for factor in (1, 16))
    expected = harness.stems(architecture, quiet.mixture)
    assert any(np.any(stem) for stem in expected.values())
    for name, stem in harness.stems(architecture, loud.mixture).items():
        np.testing.assert_array_equal(stem, expected[name] * np.float32(16))


@pytest.mark.parametrize("architecture", STEMS)
def test_rejected_songs_leave_the_model_unchanged(harness: Harness, architecture: str) -> None:
    song = harness.mixture(noise(0.2, peak=1.0))
    expected = harness.stems(architecture, song)
    broken = noise(0.2)
    broken[1, 4000] = np.inf
    for samples in (broken, np.zeros((2, 0), np.float32)):
        refusal = harness.run(architecture, harness.mixture(samples))
        assert isinstance(refusal, Refusal)
        assert (refusal.kind, refusal.code) == (ErrorKind.PERMANENT, ErrorCode.SEPARATION_FAILED)
    for name, stem in harness.stems(architecture, harness.mixture(noise(0.2, peak=1.0))).items():
        np.testing.assert_array_equal(stem, expected[name])


def test_stems_beyond_float32_are_an_error(harness: Harness) -> None:
    """At the limit of float32, a stem that is louder than the song cannot be written."""
    song = decoded(pcm(LOUD * np.float32(3.4e38))(harness.folder / "song")).mixture
    refusal = harness.run("mdx", song)
    assert isinstance(refusal, Refusal)
    assert (refusal.kind, refusal.code) == (ErrorKind.PERMANENT, ErrorCode.STEM_MISSING)
    assert refusal.message.endswith("has samples that are no numbers")
