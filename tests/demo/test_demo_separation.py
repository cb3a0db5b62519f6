"""Separate the demo's songs with the demo model in the unchanged `audio-separator`, without a network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import soundfile

from demo.centre_model import write_demo_model
from demo.sdr import sdr_db
from demo.song import Song, render_song
from tests.demo.offline_separator import OWN_ATTEMPT

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Case:
    """A song to separate, in its own folder."""

    song: Song
    folder: Path
    segment_size: int = 256

    @property
    def peak(self) -> np.float32:
        return np.max(np.abs(self.song.mixture))

    def job(self) -> dict[str, object]:
        """Write the mixture with a peak of 1, since the MDX path scales the vocals by the peak of its input."""
        self.folder.mkdir()
        mixture = self.folder / "mixture.wav"
        soundfile.write(mixture, (self.song.mixture / self.peak).T, self.song.sample_rate, subtype="FLOAT")
        return {"mixture": str(mixture), "output_dir": str(self.folder), "segment_size": self.segment_size}

    def stem(self, name: str) -> npt.NDArray[np.float32]:
        audio, _ = soundfile.read(self.folder / f"{name}.wav", dtype="float32")
        return self.peak * np.asarray(audio, np.float32).T

    def gain_db(self, name: str) -> float:
        """Return the gain in SDR of a stem over the mixture as an estimate of the stem."""
        truth = getattr(self.song, name)
        return sdr_db(truth, self.stem(name)) - sdr_db(truth, self.song.mixture)


@dataclass(frozen=True)
class Separated:
    default: Case
    small_segments: Case
    off_centre: Case
    blocked: list[str]
    """Lookups and connections that were blocked in the separator's process."""


@pytest.fixture(scope="module")
def separated(tmp_path_factory: pytest.TempPathFactory, ffmpeg_dir: Path) -> Separated:
    folder = tmp_path_factory.mktemp("separation")
    model_dir = write_demo_model(folder / "models").parent
    cases = (
        Case(render_song(), folder / "default"),
        Case(render_song(seconds=8), folder / "small_segments", segment_size=128),
        Case(render_song(seconds=8, voice_pan=0.4), folder / "off_centre"),
    )
    environment = os.environ | {"PATH": f"{ffmpeg_dir}{os.pathsep}{os.environ['PATH']}"}
    environment.pop("AUDIO_SEPARATOR_MODEL_DIR", None)
    process = subprocess.run(
        [sys.executable, "-m", "tests.demo.offline_separator", str(model_dir)],
        input=json.dumps([case.job() for case in cases]),
        stdout=subprocess.PIPE,
        cwd=REPOSITORY,
        env=environment,
        text=True,
        timeout=110,
        check=True,
    )
    return Separated(*cases, blocked=json.loads(process.stdout))


def test_voice_gains_more_than_6_db(separated: Separated) -> None:
    assert separated.default.gain_db("vocals") >= 6


def test_instrumental_gains_at_least_4_db(separated: Separated) -> None:
    assert separated.default.gain_db("instrumental") >= 4


def test_stems_sum_to_the_mixture(separated: Separated) -> None:
    case = separated.default
    rest = case.song.mixture - case.stem("vocals") - case.stem("instrumental")
    assert np.max(np.abs(rest)) <= 3 / 32768


def test_network_is_not_used(separated: Separated) -> None:
    assert len(separated.blocked) == 1
    assert OWN_ATTEMPT in separated.blocked[0]


def test_another_segment_size_uses_pytorch(separated: Separated) -> None:
    """A processor uses a smaller segment when memory is short."""
    assert separated.small_segments.gain_db("vocals") >= 6


def test_voice_off_the_centre_gains_less(separated: Separated) -> None:
    assert 3 <= separated.off_centre.gain_db("vocals") < separated.default.gain_db("vocals")
