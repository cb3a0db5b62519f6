"""Streamed VR networks: audio-separator's stems, in constant memory."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from demo import tiny_models
from pipeline.errors import ErrorCode, ErrorKind
from processor.audio.decode import Mixture
from processor.audio.wav import SAMPLE_RATE, Samples, write_wav
from tests.processor.separation import upstream_calls as calls
from tests.processor.separation import vr_calls
from tests.processor.separation.harness import NOT_SEPARABLE, Harness
from tests.processor.separation.upstream_calls import Refusal, Stems

pytestmark = pytest.mark.slow

MIB = 1 << 20

ONE = "1band_sr44100_hl1024"
FOUR = "4band_v3"
LOW_RATE = "1band_sr32000_hl512"
REVERSED = "4band_44100_reverse"
#: Four bands of mid and side; and two bands, of which even the higher one has a lower rate than the song.
OTHERS = ("4band_v4_ms_fullband", "2band_32000")
#: One band; and three bands of mid and side.
OLD = ("1band_sr44100_hl256", "3band_44100_mid")

#: Frames of the output of a network of version 5.1: 512 frames minus 64 at both ends.
STEP = 384


#: The silence after a song, frames.
PADDING = 8192


class VrHarness(Harness):
    suffix = ".pth"

    def stems(self, mixture: Mixture, model: str) -> Stems:
        """Return the stems that the engine writes."""
        return {stem.name: calls.read(stem) for stem in self.separated(mixture, model)}

    def upstream(self, mixture: Mixture, model: str, *, before: int = 0, after: int = PADDING, **options: Any) -> Stems:
        """Return audio-separator's stems of the song with silence around it, frames, without the silence."""
        song = soundfile.read(mixture.path, dtype="float32")[0]
        padded = replace(mixture, path=mixture.path.with_name("padded.wav"))
        silence = np.zeros((before + after, 2), np.float32)
        write_wav(padded.path, [silence[:before], song, silence[before:]], channels=2)
        stems = super().upstream(padded, model, **options)
        padded.path.unlink()
        return {name: stem[:, before:][:, : mixture.frames].astype(np.float32) for name, stem in stems.items()}

    def streamed(self, mixture: Mixture, model: str, **options: Any) -> Stems:
        """Return the stems of a ``VrSeparator``."""
        model += self.suffix
        return self._stems(vr_calls.streamed_stems, self.models, mixture.path, self.scratch, model, **options)


@pytest.fixture(scope="module")
def models(upstream_process: ProcessPoolExecutor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vr")
    upstream_process.submit(tiny_models.write_vr, folder, ONE, FOUR, LOW_RATE, REVERSED, *OTHERS).result(60)
    return folder


@pytest.fixture(scope="module")
def old_models(upstream_process: ProcessPoolExecutor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("old_vr")
    upstream_process.submit(tiny_models.write_old_vr, folder, *OLD).result(60)
    return folder


@pytest.fixture
def harness(upstream_process: ProcessPoolExecutor, scratch: Path, tmp_path: Path, models: Path) -> VrHarness:
    return VrHarness(upstream_process, scratch, tmp_path, models)


def noise(frames: int) -> Samples:
    """Return ``(frames, channels)`` at peak 1.0."""
    samples = np.random.default_rng(frames).standard_normal((frames, 2), np.float32)
    samples /= np.max(np.abs(samples))
    return samples


def assert_equal_with_effect(ours: Stems, upstream: Stems) -> None:
    """Assert that the stems are the same bit for bit, and that the network has an effect on both.

    Resamplers differ in whether they return the last sample, in the silence after the song. Its reach into the song is
    compared with a tolerance.
    """
    assert upstream.keys() == {"drums", "no_drums"}
    assert min(map(np.std, upstream.values())) > 1e-3
    for name, stem in upstream.items():
        np.testing.assert_array_equal(ours[name][:, :-PADDING], stem[:, :-PADDING])
        np.testing.assert_allclose(ours[name], stem, atol=1e-6)


@pytest.mark.parametrize("layout", [ONE, FOUR])
@pytest.mark.parametrize(
    "frames",
    [
        pytest.param(2 * SAMPLE_RATE + 1, id="less than a window"),
        pytest.param(20 * SAMPLE_RATE - 77, id="several windows"),
    ],
)
def test_stems_equal_upstream_bit_for_bit(harness: VrHarness, layout: str, frames: int) -> None:
    mixture = harness.mixture(noise(frames))
    assert_equal_with_effect(harness.stems(mixture, layout), harness.upstream(mixture, layout))


@pytest.mark.parametrize("more", [0, 1])
def test_stems_equal_upstream_where_the_song_ends_with_a_window(harness: VrHarness, more: int) -> None:
    """Frames are centred: the first one is at the song's first sample."""
    mixture = harness.mixture(noise((STEP - 1 + more) * 1024))
    assert_equal_with_effect(harness.stems(mixture, ONE), harness.upstream(mixture, ONE))


@pytest.mark.parametrize("layout", OTHERS)
def test_stems_equal_upstream_with_other_bands(harness: VrHarness, layout: str) -> None:
    mixture = harness.mixture(noise(7 * SAMPLE_RATE))
    assert_equal_with_effect(harness.stems(mixture, layout), harness.upstream(mixture, layout))


@pytest.mark.parametrize("layout", [OLD[0], OLD[1]])
def test_stems_equal_upstream_with_networks_of_version_5_0(harness: VrHarness, old_models: Path, layout: str) -> None:
    """Such models have other filters and another mix of channels."""
    old = replace(harness, models=old_models)
    mixture = old.mixture(noise(SAMPLE_RATE))
    assert_equal_with_effect(old.stems(mixture, layout), old.upstream(mixture, layout))


def test_block_relative_resampler_nearly_equals_upstream(harness: VrHarness) -> None:
    """Upstream's resampy rounds its positions. Positions in a block are smaller, and rounded less."""
    mixture = harness.mixture(noise(12 * SAMPLE_RATE))
    ours, upstream = harness.stems(mixture, LOW_RATE), harness.upstream(mixture, LOW_RATE)
    for name, samples in upstream.items():
        difference = np.std(ours[name] - samples)
        assert difference < np.std(samples) * 10 ** (-110 / 20)


def test_model_of_the_reversed_song_uses_upstream(harness: VrHarness) -> None:
    assert (
        harness.call(vr_calls.separator_class, harness.models, harness.scratch, f"{REVERSED}.pth")
        == "WholeSongVrSeparator"
    )
    mixture = harness.mixture(noise(SAMPLE_RATE))
    upstream = harness.upstream(mixture, REVERSED, before=PADDING, after=PADDING + -mixture.frames % 512)
    assert_equal_with_effect(harness.stems(mixture, REVERSED), upstream)


@pytest.mark.parametrize("option", ["enable_tta", "enable_post_process", "high_end_process"])
def test_options_that_need_the_whole_song_use_upstream(harness: VrHarness, option: str) -> None:
    assert harness.call(vr_calls.separator_class, harness.models, harness.scratch, f"{ONE}.pth") == "VrSeparator"
    assert (
        harness.call(vr_calls.separator_class, harness.models, harness.scratch, f"{ONE}.pth", option)
        == "WholeSongVrSeparator"
    )


def test_steps_with_less_memory_end(harness: VrHarness) -> None:
    """Batches have several windows on a GPU only."""
    steps = harness.call(calls.memory_steps, harness.models, harness.scratch, f"{ONE}.pth", 4)
    assert steps == ((), ("batch_1",), ("batch_1", "window_320"))


def test_larger_batches_give_nearly_equal_stems(harness: VrHarness) -> None:
    """Three windows in batches of two, as on a GPU. The last batch is smaller."""
    mixture = harness.mixture(noise((2 * STEP + 9) * 1024))
    one, two = (harness.streamed(mixture, ONE, batch=batch) for batch in (1, 2))
    for name, samples in one.items():
        assert np.std(two[name] - samples) < np.std(samples) * 10 ** (-90 / 20)


@pytest.mark.parametrize("name", ["drums", "no_drums"])
def test_one_wanted_stem_is_unchanged(harness: VrHarness, name: str) -> None:
    mixture = harness.mixture(noise(SAMPLE_RATE))
    every = harness.stems(mixture, ONE)
    stems = harness.streamed(mixture, ONE, only=(name,))
    assert stems.keys() == {name}
    np.testing.assert_array_equal(stems[name], every[name])


@pytest.mark.parametrize(
    "samples",
    [
        pytest.param(np.zeros((3 * SAMPLE_RATE, 2), np.float32), id="silence"),
        pytest.param(noise(1), id="one sample"),
        pytest.param(noise(1023), id="less than a hop"),
    ],
)
def test_stems_of_silence_and_of_short_songs_add_up(harness: VrHarness, samples: Samples) -> None:
    """audio-separator fails on the two short ones."""
    stems = harness.stems(harness.mixture(samples), ONE)
    assert stems.keys() == {"drums", "no_drums"}
    mixed: Any = sum(stems.values())
    assert np.std(mixed - samples.T) <= 0.1 * np.std(samples)  # the network does not take the highest frequencies


@pytest.mark.parametrize("layout", [ONE, FOUR, LOW_RATE, *OTHERS, REVERSED])
def test_stems_are_complete_to_both_ends(harness: VrHarness, layout: str) -> None:
    """They add up to the mixture, below the filters of the highest rate, at the ends as well as in between.

    audio-separator ends with up to a hop of silence, and stems of a model of the reversed song begin too early.
    """
    time = np.arange(2 * SAMPLE_RATE + 706) / SAMPLE_RATE
    tones = [np.sin(2 * np.pi * hertz * time + phase) for hertz, phase in ((220, 0.3), (1000, 1.0), (5200, 2.0))]
    song = np.stack([sum(tones[:2]) / 3, sum(tones) / 3], axis=1).astype(np.float32)
    mixed: Any = sum(harness.stems(harness.mixture(song), layout).values())
    error, short = mixed - song.T, SAMPLE_RATE // 20

    def snr_db(part: slice) -> float:
        return float(10 * np.log10(np.mean(song.T[:, part] ** 2) / np.mean(error[:, part] ** 2)))

    middle = snr_db(slice(SAMPLE_RATE, SAMPLE_RATE + short))
    assert middle > 25
    for part in (slice(short), slice(-short, None), slice(-706, None)):
        assert snr_db(part) > min(middle - 12, 40)


def test_cancelled_song_leaves_no_files_and_the_next_is_correct(harness: VrHarness) -> None:
    """Cancelled at once, in the search for the largest magnitude, and in the separation."""
    mixture = harness.mixture(noise((STEP + 9) * 1024))
    for share in (0.0, 0.01, 0.5):
        refusal, progress = harness.run(mixture, ONE, cancel_at=share)
        assert isinstance(refusal, Refusal)
        assert refusal.code == ErrorCode.SHUTTING_DOWN
        assert share <= progress[-1] < 1.0
        assert [path.name for path in harness.folder.glob("*.wav")] == ["song.wav"]
    assert_equal_with_effect(harness.stems(mixture, ONE), harness.upstream(mixture, ONE))


def test_weights_are_read_once(harness: VrHarness, tmp_path: Path) -> None:
    folder = tmp_path / "models"
    harness.call(tiny_models.write_vr, folder, ONE)
    own = replace(harness, models=folder)
    mixture = own.mixture(noise(SAMPLE_RATE))
    own.stems(mixture, ONE)
    (folder / f"{ONE}.pth").unlink()
    own.stems(mixture, ONE)


def test_damaged_weights_are_reported_when_the_model_is_loaded(harness: VrHarness, tmp_path: Path) -> None:
    folder = tmp_path / "models"
    harness.call(tiny_models.write_vr, folder, ONE)
    harness.call(tiny_models.damage_vr, folder, f"{ONE}.pth")
    refusal = harness.call(calls.load, folder, harness.scratch, f"{ONE}.pth")
    assert isinstance(refusal, Refusal)
    assert (refusal.kind, refusal.code) == (ErrorKind.PERMANENT, ErrorCode.MODEL_INVALID)


@pytest.mark.parametrize("second", [0, 8])
def test_samples_that_are_not_finite_are_rejected(harness: VrHarness, second: int) -> None:
    samples = noise(9 * SAMPLE_RATE)
    samples[second * SAMPLE_RATE] = np.nan
    assert harness.refused(harness.mixture(samples), ONE) == NOT_SEPARABLE


def test_memory_is_constant(harness: VrHarness) -> None:
    """audio-separator takes 200 MiB more for 50 s than for 20 s."""
    assert harness.growth(20, 50, ONE) < 32 * MIB
