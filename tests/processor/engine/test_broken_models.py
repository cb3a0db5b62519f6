"""Models that cannot be loaded or run are refused at once and for good; no code in their files runs."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from demo import tiny_models
from pipeline.errors import ErrorCode, ErrorKind
from processor.audio.decode import Mixture
from processor.ipc import Failed
from tests.processor.engine import broken_models
from tests.processor.separation import upstream_calls as calls
from tests.processor.separation.harness import Harness, assert_equal
from tests.processor.separation.upstream_calls import Refusal, read
from tests.processor.source_files import decoded, noise, write_pcm

pytestmark = pytest.mark.slow

PAIR = broken_models.PAIR


class CheckpointHarness(Harness):
    suffix = ""

    def refusal(self, model: str) -> Refusal:
        refusal = self.call(calls.load, self.models, self.scratch, model)
        assert isinstance(refusal, Refusal), refusal
        assert (refusal.kind, refusal.code) == (ErrorKind.PERMANENT, ErrorCode.MODEL_INVALID)
        assert str(self.models) not in refusal.message
        return refusal


@pytest.fixture
def harness(upstream_process: ProcessPoolExecutor, scratch: Path, tmp_path: Path) -> CheckpointHarness:
    models = tmp_path / "models"
    models.mkdir()
    return CheckpointHarness(upstream_process, scratch, tmp_path, models)


@pytest.fixture
def song(tmp_path: Path) -> Mixture:
    return decoded(write_pcm(tmp_path / "song.wav", noise(11.0), subtype="FLOAT")).mixture


# --- hostile files ---


@pytest.mark.parametrize("kind", ["demucs", "vr", "mdx23c", "roformer"])
def test_pickled_code_is_refused_and_does_not_run(harness: CheckpointHarness, kind: str) -> None:
    victim = harness.folder / "victim"
    model = harness.call(broken_models.write_hostile, harness.models, kind, victim)
    assert "is refused: its file contains other things than weights" in harness.refusal(model).message
    assert not victim.exists()


def test_yaml_that_constructs_objects_is_refused(harness: CheckpointHarness) -> None:
    victim = harness.folder / "victim"
    model = harness.call(tiny_models.write_mdxc, harness.models, PAIR)
    for tag in ("python/object/apply:os.mkdir", "python/object/new:os.mkdir"):
        (harness.models / "tiny.yaml").write_text(f"audio: !!{tag} ['{victim}']\n")
        assert "(ConstructorError)" in harness.refusal(model).message
    assert not victim.exists()


def test_tuples_in_yaml_are_read(harness: CheckpointHarness, song: Mixture) -> None:
    """Configurations of Roformers are published with this tag."""
    model = harness.call(tiny_models.write_roformer, harness.models, PAIR)
    config = harness.models / "tiny.yaml"
    expected = harness.separated(song, model)
    config.write_text(config.read_text().replace('"freqs_per_bands": [', '"freqs_per_bands": !!python/tuple ['))
    harness.call(broken_models.forget_engines)
    assert harness.separated(song, model) == expected


def test_published_form_of_demucs_is_loaded(harness: CheckpointHarness, song: Mixture) -> None:
    """It contains a network's class, a fraction and numbers of numpy."""
    model = harness.call(broken_models.write_published_demucs, harness.models)
    assert {stem.name for stem in harness.separated(song, model)} == {"drums", "bass", "other", "vocals"}


def test_quantised_demucs_is_loaded_with_diffq_and_refused_without(harness: CheckpointHarness, song: Mixture) -> None:
    """Diffq has no wheels for Python 3.13 and later."""
    quantised = harness.call(broken_models.write_quantised_demucs, harness.models)
    assert {stem.name for stem in harness.separated(song, quantised)} == {"drums", "bass", "other", "vocals"}
    folder = harness.folder / "other models"
    folder.mkdir()
    plain = harness.call(broken_models.write_published_demucs, folder)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as fresh:
        arguments = [(harness.models, quantised), (folder, plain)]
        refusal, device = (
            fresh.submit(broken_models.load_without_diffq, models, harness.scratch, model).result(60)
            for models, model in arguments
        )
    assert isinstance(refusal, Refusal)
    assert (refusal.kind, refusal.code) == (ErrorKind.PERMANENT, ErrorCode.MODEL_INVALID)
    assert refusal.message.startswith("the weights of this model are quantised with diffq")
    assert device == "cpu"


# --- damaged files ---


@pytest.mark.parametrize("kind", ["mdx23c", "roformer"])
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("other weights", "its weights are not those of the network that its parameters describe"),
        ("truncated", "its files are damaged, incomplete"),
        ("no network", "its files are damaged, incomplete"),
    ],
)
def test_files_that_cannot_be_loaded_are_a_permanent_error(
    harness: CheckpointHarness, kind: str, change: str, reason: str
) -> None:
    model = harness.call(broken_models.write_changed, harness.models, kind, change)
    assert reason in harness.refusal(model).message


# --- unusual files ---


@pytest.mark.parametrize("kind", ["mdx23c", "roformer"])
@pytest.mark.parametrize("change", ["module.", "nested", "no dim_t"])
def test_unusual_files_give_the_same_stems(harness: CheckpointHarness, song: Mixture, kind: str, change: str) -> None:
    write = {"mdx23c": tiny_models.write_mdxc, "roformer": tiny_models.write_roformer}[kind]
    model = harness.call(write, harness.models, PAIR)
    expected = [stem.sha256 for stem in harness.separated(song, model)]
    harness.call(broken_models.forget_engines)
    harness.call(broken_models.write_changed, harness.models, kind, change)
    assert [stem.sha256 for stem in harness.separated(song, model)] == expected


@pytest.mark.parametrize("target", [None, "人声"])
@pytest.mark.parametrize("write", [tiny_models.write_mdxc, tiny_models.write_roformer])
def test_stems_in_other_scripts_keep_their_names(
    harness: CheckpointHarness, song: Mixture, write: Callable[..., str], target: str | None
) -> None:
    model = harness.call(write, harness.models, ["人声", "伴奏"], target)
    stems = harness.separated(song, model)
    assert {stem.name for stem in stems} == {"人声", "伴奏"}
    assert len({stem.path for stem in stems}) == len({stem.sha256 for stem in stems}) == 2
    assert all(stem.path.name.isascii() for stem in stems)
    (alone,) = harness.separated(song, model, stems=("伴奏",))
    assert alone in stems


def test_stems_with_equal_letters_keep_apart(harness: CheckpointHarness, song: Mixture) -> None:
    model = harness.call(tiny_models.write_mdxc, harness.models, ["Drums!", "Drums?", "🎤"])
    assert {stem.name for stem in harness.separated(song, model)} == {"drums", "drums_2", "stem"}


@pytest.mark.parametrize("bands", ["bs", "mel"])
def test_mono_roformer_separates_each_channel(harness: CheckpointHarness, bands: str) -> None:
    options = {"stereo": False, "bands": bands}
    model = harness.call(tiny_models.write_roformer, harness.models, PAIR, **options)
    samples = noise(11.0).T
    both = {stem.name: read(stem) for stem in harness.separated(harness.mixture(samples), model)}
    for channel in (0, 1):
        alone = harness.mixture(np.repeat(samples[:, channel : channel + 1], 2, axis=1))
        for stem in harness.separated(alone, model):
            np.testing.assert_allclose(read(stem)[0], both[stem.name][channel], atol=1e-6)
    assert np.std(both["vocals"]) > 1e-3
    assert_equal({"shape": np.array(both["vocals"].shape)}, {"shape": np.array([2, len(samples)])})


def test_mono_mdx23c_is_refused_when_it_is_loaded(harness: CheckpointHarness) -> None:
    """audio-separator's network of this kind returns two channels in any case."""
    model = harness.call(tiny_models.write_mdxc, harness.models, PAIR, channels=1)
    assert harness.refusal(model).message.startswith("the model is not for stereo")


# --- exceptions while a song is separated ---


def test_exception_of_a_library_is_permanent_and_keeps_the_child(harness: CheckpointHarness, song: Mixture) -> None:
    """ONNX Runtime raises it at every attempt."""
    other = harness.call(tiny_models.write_mdxc, harness.models, PAIR)
    model = harness.call(broken_models.write_short_input, harness.models)
    report = harness.call(broken_models.job_report, harness.models, harness.scratch, song, harness.folder, model)
    assert report == Failed(
        1,
        ErrorKind.PERMANENT,
        ErrorCode.SEPARATION_FAILED,
        "the model cannot separate this song (RuntimeError): it would fail in the same way again",
    )
    assert harness.separated(song, other)
