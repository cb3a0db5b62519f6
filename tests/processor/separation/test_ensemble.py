"""Ensembles: stems of several models, combined as audio-separator combines them."""

from __future__ import annotations

import copy
import itertools
import tracemalloc
from collections.abc import Collection, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from demo.sdr import sdr_db
from pipeline.errors import ErrorCode, ErrorKind
from pipeline.model_choice import Algorithm, Ensemble
from processor.audio.decode import Mixture
from processor.audio.wav import SAMPLE_RATE, Samples, write_wav
from processor.ipc import Stem
from processor.models import presets
from processor.models.catalogue import read_catalogue
from processor.models.model_lists import upstream_data
from processor.separation.ensemble.combine import BLOCK_FRAMES, combine_stems
from processor.separation.ensemble.separator import EnsembleSeparator
from processor.separation.ensemble.stem_names import common_names
from processor.separation.ensemble.stft_combiners import HOP
from processor.separation.separator import OnProgress, ReducedSeparator, Separator, Write
from processor.separation.stems import StemMissingError
from tests.processor.engine import model_calls
from tests.processor.engine.model_calls import DEMUCS, MDX, MDXC
from tests.processor.separation.upstream_calls import Refusal

WEIGHTS = {Algorithm.AVG_WAVE: [1.0, 3.0, 0.5], Algorithm.AVG_FFT: [1.0, 3.0, 0.5]}


def stem_file(path: Path, samples: Samples) -> Path:
    write_wav(path, [samples], channels=2)
    return path


def takes(frames: int, number: int = 3, seed: int = 0) -> list[Samples]:
    """Return stems that have a common part, like several estimates of one voice."""
    random = np.random.default_rng(seed)
    voice = random.standard_normal((frames, 2))
    return [(0.2 * (voice + 0.3 * random.standard_normal((frames, 2)))).astype(np.float32) for _ in range(number)]


def combine(algorithm: Algorithm, files: list[Path], weights: list[float] | None = None) -> NDArray[np.float32]:
    return np.concatenate(list(combine_stems(algorithm, files, weights)))


def works_on_spectra(algorithm: Algorithm) -> bool:
    return algorithm.endswith(("fft", "spec"))


# --- the algorithms ---


@dataclass(frozen=True)
class Harness:
    upstream_process: ProcessPoolExecutor
    models: Path
    folder: Path
    scratch: Path

    def call(self, function: Any, *args: Any, **options: Any) -> Any:
        return self.upstream_process.submit(function, *args, **options).result(90)

    def separated(
        self, model: str | Ensemble, mixture: Mixture, **options: Any
    ) -> tuple[tuple[Stem, ...] | Refusal, list[float], list[str], str]:
        found: tuple[tuple[Stem, ...] | Refusal, list[float], list[str], str] = self.call(
            model_calls.separated, self.models, self.scratch, mixture, self.folder, model, **options
        )
        return found

    def upstream_combined(self, files: list[Path], algorithm: Algorithm, weights: list[float] | None) -> Any:
        return self.call(model_calls.upstream_combined, files, str(algorithm), weights)


@pytest.fixture(scope="module")
def models(upstream_process: ProcessPoolExecutor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("several")
    upstream_process.submit(model_calls.write_models, folder).result(60)
    return folder


@pytest.fixture
def harness(upstream_process: ProcessPoolExecutor, models: Path, scratch: Path, tmp_path: Path) -> Harness:
    folder = tmp_path / "stems"
    folder.mkdir()
    return Harness(upstream_process, models, folder, scratch)


@pytest.fixture(scope="module")
def song(tmp_path_factory: pytest.TempPathFactory) -> Mixture:
    """A song whose end is between two hops."""
    samples = takes(2 * SAMPLE_RATE, 1)[0]
    samples /= np.max(np.abs(samples))
    path = stem_file(tmp_path_factory.mktemp("song") / "song.wav", samples)
    assert len(samples) % HOP
    return Mixture(path, 1.0, len(samples), ())


@pytest.fixture(scope="module")
def voices(upstream_process: ProcessPoolExecutor, models: Path, scratch: Path, song: Mixture) -> list[Path]:
    """The vocals of the song, from a model of each architecture."""
    files = []
    for model in (MDX, MDXC, DEMUCS):
        folder = scratch / f"of {model}"
        folder.mkdir()
        run = upstream_process.submit(model_calls.separated, models, scratch, song, folder, model, stems=("vocals",))
        stems, *_ = run.result(90)
        assert not isinstance(stems, Refusal), stems
        files += [stem.path for stem in stems]
    return files


@pytest.mark.slow
@pytest.mark.parametrize("members", [2, 3])
@pytest.mark.parametrize("algorithm", Algorithm)
def test_combined_stems_equal_upstream(
    harness: Harness, voices: list[Path], algorithm: Algorithm, members: int
) -> None:
    assert len(voices) == 3
    for weights in (None, WEIGHTS.get(algorithm)):
        chosen = weights[:members] if weights else None
        upstream = harness.upstream_combined(voices[:members], algorithm, chosen)
        ours = combine(algorithm, voices[:members], chosen)
        assert np.std(ours) > 1e-4
        whole = len(ours) // HOP * HOP if works_on_spectra(algorithm) else len(ours)
        assert sdr_db(upstream[:whole].T, ours[:whole].T) > 120
        if not works_on_spectra(algorithm):
            np.testing.assert_array_equal(ours, upstream)


@pytest.mark.slow
@pytest.mark.parametrize("frames", [HOP, 2 * HOP, BLOCK_FRAMES, BLOCK_FRAMES + HOP, 2 * BLOCK_FRAMES])
def test_result_does_not_depend_on_the_blocks(harness: Harness, tmp_path: Path, frames: int) -> None:
    files = [stem_file(tmp_path / f"{number}.wav", take) for number, take in enumerate(takes(frames))]
    for algorithm in (Algorithm.MEDIAN_FFT, Algorithm.UVR_MIN_SPEC, Algorithm.MAX_WAVE):
        upstream = harness.upstream_combined(files, algorithm, None)
        assert sdr_db(upstream.T, combine(algorithm, files).T) > 120


@pytest.mark.parametrize("algorithm", [algorithm for algorithm in Algorithm if works_on_spectra(algorithm)])
@pytest.mark.parametrize("frames", [1, HOP - 1, 3 * HOP + 1, 3 * HOP + 1023, BLOCK_FRAMES + 1, 2 * BLOCK_FRAMES - 1])
def test_end_of_the_song_is_treated_like_the_rest(tmp_path: Path, algorithm: Algorithm, frames: int) -> None:
    """audio-separator omits the end, or multiplies it by thousands: the window of its last frame is almost zero."""
    stems = takes(frames)
    files = [stem_file(tmp_path / f"{number}.wav", take) for number, take in enumerate(stems)]
    ours = combine(algorithm, files)
    assert ours.shape == (frames, 2)
    assert np.max(np.abs(ours)) < 2 * max(np.max(np.abs(stem)) for stem in stems)
    if algorithm is Algorithm.AVG_FFT:
        assert sdr_db(np.mean(stems, axis=0).T, ours.T) > 120


@pytest.mark.parametrize("algorithm", Algorithm)
def test_equal_stems_are_returned_unchanged(tmp_path: Path, algorithm: Algorithm) -> None:
    (take,) = takes(3 * HOP + 5, 1)
    files = [stem_file(tmp_path / f"{number}.wav", take) for number in range(3)]
    assert sdr_db(take.T, combine(algorithm, files).T) > 120


@pytest.mark.parametrize(
    ("algorithm", "number"), [("max_fft", 0), ("min_fft", 0), ("uvr_max_spec", 1), ("uvr_min_spec", 1), ("max_wave", 0)]
)
def test_ties_take_the_first_or_the_last_stem(tmp_path: Path, algorithm: str, number: int) -> None:
    (take,) = takes(4 * HOP, 1)
    both = [take, -take]
    files = [stem_file(tmp_path / f"{position}.wav", stem) for position, stem in enumerate(both)]
    assert sdr_db(both[number].T, combine(Algorithm(algorithm), files).T) > 120


def test_weights_of_the_wrong_number_are_ignored(tmp_path: Path) -> None:
    """The numbers differ for a stem that one of the models does not have."""
    stems = takes(1000, 2)
    files = [stem_file(tmp_path / f"{number}.wav", take) for number, take in enumerate(stems)]
    np.testing.assert_array_equal(
        combine(Algorithm.AVG_WAVE, files, [1.0, 5.0, 3.0]), combine(Algorithm.AVG_WAVE, files)
    )
    np.testing.assert_array_equal(combine(Algorithm.AVG_WAVE, files[:1], [5.0, 1.0]), stems[0])


@pytest.mark.parametrize("algorithm", [Algorithm.MEDIAN_WAVE, Algorithm.ENSEMBLE_WAV, Algorithm.MAX_FFT])
def test_memory_is_constant(tmp_path: Path, algorithm: Algorithm) -> None:
    peaks = []
    for blocks in (8, 32):
        files = [tmp_path / f"{number}.wav" for number in range(2)]
        for number, file in enumerate(files):
            write_wav(file, itertools.repeat(takes(BLOCK_FRAMES, 1, number)[0], blocks), channels=2)
        tracemalloc.start()
        assert sum(map(len, combine_stems(algorithm, files, None))) == blocks * BLOCK_FRAMES
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 100_000


# --- the stems ---


@pytest.mark.parametrize(
    ("stems", "names"),
    [
        (("vocals", "instrumental"), ("vocals", "instrumental")),
        (("vocals", "other"), ("vocals", "instrumental")),
        (("vocals", "no_vocals"), ("vocals", "instrumental")),
        (("karaoke", "lead_vocals"), ("instrumental", "lead_vocals")),
        (("lead_vocals", "backing_vocals"), ("lead_vocals", "backing_vocals")),
        (("drums", "bass", "other", "vocals"), ("drums", "bass", "other", "vocals")),
        (("drums", "other"), ("drums", "other")),
        (("female_vocals", "inst"), ("vocals", "instrumental")),
        (("drums", "no_drums"), ("drums", "no_drums")),
    ],
)
def test_stems_of_different_models_have_common_names(stems: tuple[str, ...], names: tuple[str, ...]) -> None:
    assert tuple(common_names(stems)[stem] for stem in stems) == names


@pytest.mark.slow
def test_ensemble_of_three_architectures(harness: Harness, song: Mixture, voices: list[Path]) -> None:
    ensemble = Ensemble(ensemble=(MDX, MDXC, DEMUCS), weights=(1.0, 3.0, 0.5))

    stems, progress, cache_events, device = harness.separated(ensemble, song)

    assert not isinstance(stems, Refusal), stems
    by_name = {stem.name: stem for stem in stems}
    assert set(by_name) == {"vocals", "instrumental", "drums", "bass", "other"}
    assert {stem.frames for stem in stems} == {song.frames}
    ours = soundfile.read(by_name["vocals"].path, dtype="float32")[0]
    np.testing.assert_array_equal(ours, harness.upstream_combined(voices, Algorithm.AVG_WAVE, [1.0, 3.0, 0.5]))
    assert progress == sorted(progress)
    assert (progress[0], progress[-1]) == (0.0, 1.0)
    assert any(0 < share < 1 / 3 for share in progress) or any(1 / 3 < share < 2 / 3 for share in progress)
    assert cache_events == [f"loaded {model}" for model in (MDX, MDXC, DEMUCS)]
    assert device == "cpu"
    assert sorted(path.name for path in harness.folder.iterdir()) == sorted(f"{name}.wav" for name in by_name)


@pytest.mark.slow
def test_ensemble_respects_the_limit_of_the_model_cache(harness: Harness, song: Mixture) -> None:
    ensemble = Ensemble(ensemble=(MDX, MDXC), algorithm=Algorithm.MAX_FFT)
    stems, _, cache_events, _ = harness.separated(ensemble, song, limit=1)
    assert not isinstance(stems, Refusal), stems
    upstream = harness.call(
        model_calls.upstream_ensemble_stems, harness.models, harness.scratch, song, list(ensemble.ensemble)
    )
    assert {stem.name for stem in stems} == {name.lower() for name in upstream} == {"vocals", "instrumental"}
    assert cache_events == [f"loaded {MDX}", f"evicted {MDX}", f"loaded {MDXC}"]


@pytest.mark.slow
def test_only_wanted_stems_are_written_and_they_must_exist(harness: Harness, song: Mixture) -> None:
    stems, *_ = harness.separated(Ensemble(ensemble=(MDX, MDXC)), song, stems=("instrumental",))
    assert not isinstance(stems, Refusal), stems
    assert [stem.name for stem in stems] == ["instrumental"]

    refusal, progress, _, _ = harness.separated(Ensemble(ensemble=(MDX, MDXC)), song, stems=("vocals", "zither"))
    assert refusal == Refusal(
        ErrorKind.PERMANENT,
        ErrorCode.STEM_UNKNOWN,
        "the model has no stem named zither; it has instrumental, vocals",
    )
    assert progress == []


@pytest.mark.slow
def test_unknown_member_is_reported_before_any_model_runs(harness: Harness, song: Mixture) -> None:
    refusal, progress, cache_events, _ = harness.separated(Ensemble(ensemble=(MDX, "unknown.ckpt")), song)
    assert refusal == Refusal(
        ErrorKind.PERMANENT,
        ErrorCode.MODEL_UNKNOWN,
        "there is no model named unknown.ckpt: no list of models has it",
    )
    assert (progress, cache_events) == ([], [])


@pytest.mark.slow
@pytest.mark.parametrize("cancel_at", [0.0, 0.5, 1.0])
def test_cancellation_leaves_no_files(harness: Harness, song: Mixture, cancel_at: float) -> None:
    """Cancelled during the first model, during the second, and while their stems are combined."""
    refusal, progress, _, _ = harness.separated(Ensemble(ensemble=(MDX, MDXC)), song, cancel_at=cancel_at)
    assert isinstance(refusal, Refusal)
    assert refusal.kind == ErrorKind.CANCELLED
    assert progress[-1] >= cancel_at
    assert list(harness.folder.iterdir()) == []


# --- the separator, with fake models ---


class ConstantSeparator:
    """A separator whose stems are constants: 1, 2, and so on."""

    device = "cpu"

    def __init__(self, *stems: str, broken: str = "", declared: bool = True) -> None:
        self._numbers, self._broken = {stem: number for number, stem in enumerate(stems, 1)}, broken
        self.stems = frozenset(stems) if declared else None

    def only(self, wanted: Collection[str]) -> ConstantSeparator:
        other = copy.copy(self)
        other._numbers = {stem: number for stem, number in self._numbers.items() if stem in wanted}
        return other

    def reduce_memory(self) -> ReducedSeparator | None:
        raise NotImplementedError

    def separate(self, mixture: Path, write: Write, on_progress: OnProgress) -> None:
        frames = soundfile.info(mixture).frames
        for part in (0, 1):
            on_progress(part / 2)
            for stem, number in self._numbers.items():
                short = stem == self._broken == "short"
                value = np.nan if stem == self._broken and not short else number
                write(stem, np.full((frames // 2 - short, 2), value, np.float32))


def ensemble_of(
    separators: Mapping[str, Separator], folder: Path, wanted: tuple[str, ...] | None = None
) -> EnsembleSeparator:
    """Return the ensemble of these models, each with one attempt."""
    return EnsembleSeparator(
        Ensemble(ensemble=tuple(separators)),
        lambda model, attempt: attempt(separators[model]),
        lambda model: separators[model].stems,
        wanted,
        folder,
    )


@pytest.fixture
def mixture(tmp_path: Path) -> Path:
    return stem_file(tmp_path / "mixture.wav", np.zeros((1000, 2), np.float32))


def run(
    folder: Path, mixture: Path, wanted: tuple[str, ...] | None = None, **models: Separator
) -> tuple[dict[str, float], list[float]]:
    """Return the value of each stem, and the progress."""
    found: dict[str, float] = {}
    progress: list[float] = []
    separator = ensemble_of(models, folder, wanted)
    separator.separate(mixture, lambda name, block: found.update({name: float(block[0, 0])}), progress.append)
    return found, progress


def test_progress_is_the_share_of_all_models(tmp_path: Path, mixture: Path) -> None:
    found, progress = run(
        tmp_path, mixture, a=ConstantSeparator("vocals", "drums"), b=ConstantSeparator("drums", "vocals")
    )
    assert found == {"vocals": 1.5, "drums": 1.5}
    assert progress == [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]


def test_combined_stems_are_removed_from_the_disk(tmp_path: Path, mixture: Path) -> None:
    models = {"a": ConstantSeparator("vocals", "drums"), "b": ConstantSeparator("vocals", "drums")}
    separator = ensemble_of(models, tmp_path)
    files: dict[str, int] = {}
    separator.separate(
        mixture,
        lambda name, _block: files.update({name: len(list(tmp_path.rglob("*/*.wav")))}),
        lambda _fraction: None,
    )
    assert files == {"vocals": 4, "drums": 2}
    assert [path.name for path in tmp_path.iterdir()] == ["mixture.wav"]


def test_stem_of_some_models_is_combined_from_these(tmp_path: Path, mixture: Path) -> None:
    found, _ = run(
        tmp_path,
        mixture,
        a=ConstantSeparator("vocals", "other"),
        b=ConstantSeparator("drums", "bass", "other", "vocals"),
    )
    assert found == {"vocals": 2.5, "instrumental": 2.0, "drums": 1.0, "bass": 2.0, "other": 3.0}


def test_models_without_declared_stems(tmp_path: Path, mixture: Path) -> None:
    models = {
        "a": ConstantSeparator("vocals", "other", declared=False),
        "b": ConstantSeparator("vocals", "instrumental"),
    }
    assert run(tmp_path, mixture, ("instrumental",), **models)[0] == {"instrumental": 2.0}
    assert ensemble_of(models, tmp_path).stems is None


def test_model_without_a_wanted_stem_is_not_run(tmp_path: Path, mixture: Path) -> None:
    found, progress = run(
        tmp_path,
        mixture,
        ("drums",),
        a=ConstantSeparator("vocals", "instrumental"),
        b=ConstantSeparator("drums", "bass"),
    )
    assert found == {"drums": 1.0}
    assert progress == [0.5, 0.75, 1.0]


@pytest.mark.parametrize(
    ("stem", "sentence"), [("drums", "drums has samples that are no numbers"), ("short", "short has 998 samples")]
)
def test_invalid_stems_of_one_model_fail_the_ensemble(tmp_path: Path, mixture: Path, stem: str, sentence: str) -> None:
    with pytest.raises(StemMissingError, match=sentence):
        run(tmp_path, mixture, a=ConstantSeparator("drums"), b=ConstantSeparator("drums", stem, broken=stem))
    assert [path.name for path in tmp_path.iterdir()] == ["mixture.wav"]


def test_declared_stem_that_is_missing_is_an_error(tmp_path: Path, mixture: Path) -> None:
    incomplete = ConstantSeparator("drums")
    incomplete.stems = frozenset(("drums", "bass"))
    with pytest.raises(StemMissingError, match="the model gave no bass"):
        run(tmp_path, mixture, a=incomplete, b=ConstantSeparator("drums"))


# --- presets ---


def test_all_upstream_presets_are_available(tmp_path: Path) -> None:
    catalogue = read_catalogue(tmp_path)
    upstream = upstream_data("ensemble_presets.json")["presets"]
    ours = presets.presets()
    assert upstream.keys() == ours.keys()
    assert len(ours) >= 9
    for name, preset in upstream.items():
        assert list(ours[name].ensemble) == preset["models"]
        assert ours[name].algorithm == preset["algorithm"]
        assert ours[name].weights == preset["weights"]
        for model in ours[name].ensemble:
            catalogue.find(model)


def test_preset_resolves_to_its_models_and_other_names_to_themselves() -> None:
    assert str(presets.resolved("vocal_full")).startswith("max_fft: bs_roformer_vocals_revive_v3e_unwa.ckpt, mel_band")
    assert presets.resolved("a.onnx") == "a.onnx"
    ensemble = Ensemble(ensemble=("a.onnx", "b.onnx"))
    assert presets.resolved(ensemble) is ensemble
