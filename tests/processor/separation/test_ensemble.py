"""Ensembles: the stems of several models combined as audio-separator combines them, to the end of the song."""

from __future__ import annotations

import copy
import itertools
import tracemalloc
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

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
from processor.models.model_lists import bundled
from processor.separation.ensemble.combine import BLOCK_FRAMES, combine_stems
from processor.separation.ensemble.separator import EnsembleSeparator, LoadModel
from processor.separation.ensemble.stem_names import common_names
from processor.separation.ensemble.stft_combiners import HOP
from processor.separation.separator import OnProgress, ReducedSeparator, Separator, Write
from processor.separation.stems import StemMissingError
from tests.processor.engine import several_models
from tests.processor.engine.several_models import DEMUCS, MDX, MDXC
from tests.processor.separation.upstream import Refusal

T = TypeVar("T")

WEIGHTS = {Algorithm.AVG_WAVE: [1.0, 3.0, 0.5], Algorithm.AVG_FFT: [1.0, 3.0, 0.5]}


def stem_file(path: Path, samples: Samples) -> Path:
    write_wav(path, [samples], channels=2)
    return path


def takes(frames: int, number: int = 3, seed: int = 0) -> list[Samples]:
    """Stems that have something in common, as those of one voice have."""
    random = np.random.default_rng(seed)
    voice = random.standard_normal((frames, 2))
    return [(0.2 * (voice + 0.3 * random.standard_normal((frames, 2)))).astype(np.float32) for _ in range(number)]


def combine(algorithm: Algorithm, files: list[Path], weights: list[float] | None = None) -> NDArray[np.float32]:
    return np.concatenate(list(combine_stems(algorithm, files, weights)))


def works_on_spectra(algorithm: Algorithm) -> bool:
    return algorithm.endswith(("fft", "spec"))


# --- the algorithms ---


@dataclass(frozen=True)
class Lab:
    library: ProcessPoolExecutor
    models: Path
    folder: Path
    scratch: Path

    def call(self, experiment: Any, *args: Any, **options: Any) -> Any:
        return self.library.submit(experiment, *args, **options).result(90)

    def separated(
        self, model: str | Ensemble, mixture: Mixture, **options: Any
    ) -> tuple[tuple[Stem, ...] | Refusal, list[float], list[str], str]:
        found: tuple[tuple[Stem, ...] | Refusal, list[float], list[str], str] = self.call(
            several_models.separated, self.models, self.scratch, mixture, self.folder, model, **options
        )
        return found

    def by_the_library(self, files: list[Path], algorithm: Algorithm, weights: list[float] | None) -> Any:
        return self.call(several_models.by_the_library, files, str(algorithm), weights)


@pytest.fixture(scope="module")
def models(library: ProcessPoolExecutor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("several")
    library.submit(several_models.write_models, folder).result(60)
    return folder


@pytest.fixture
def lab(library: ProcessPoolExecutor, models: Path, scratch: Path, tmp_path: Path) -> Lab:
    folder = tmp_path / "stems"
    folder.mkdir()
    return Lab(library, models, folder, scratch)


@pytest.fixture(scope="module")
def song(tmp_path_factory: pytest.TempPathFactory) -> Mixture:
    """Two seconds and a bit: the end lies between two hops."""
    samples = takes(2 * SAMPLE_RATE, 1)[0]
    samples /= np.max(np.abs(samples))
    path = stem_file(tmp_path_factory.mktemp("song") / "song.wav", samples)
    assert len(samples) % HOP
    return Mixture(path, 1.0, len(samples), ())


@pytest.fixture(scope="module")
def voices(library: ProcessPoolExecutor, models: Path, scratch: Path, song: Mixture) -> list[Path]:
    """The voice of the song, by a model of each architecture."""
    files = []
    for model in (MDX, MDXC, DEMUCS):
        folder = scratch / f"of {model}"
        folder.mkdir()
        run = library.submit(several_models.separated, models, scratch, song, folder, model, stems=("vocals",))
        stems, *_ = run.result(90)
        assert not isinstance(stems, Refusal), stems
        files += [stem.path for stem in stems]
    return files


@pytest.mark.slow
@pytest.mark.parametrize("members", [2, 3])
@pytest.mark.parametrize("algorithm", Algorithm)
def test_what_the_library_makes_of_the_same_stems(
    lab: Lab, voices: list[Path], algorithm: Algorithm, members: int
) -> None:
    assert len(voices) == 3
    for weights in (None, WEIGHTS.get(algorithm)):
        chosen = weights[:members] if weights else None
        stock = lab.by_the_library(voices[:members], algorithm, chosen)
        ours = combine(algorithm, voices[:members], chosen)
        assert np.std(ours) > 1e-4
        whole = len(ours) // HOP * HOP if works_on_spectra(algorithm) else len(ours)
        assert sdr_db(stock[:whole].T, ours[:whole].T) > 120
        if not works_on_spectra(algorithm):
            np.testing.assert_array_equal(ours, stock)


@pytest.mark.slow
@pytest.mark.parametrize("frames", [HOP, 2 * HOP, BLOCK_FRAMES, BLOCK_FRAMES + HOP, 2 * BLOCK_FRAMES])
def test_the_same_wherever_blocks_begin(lab: Lab, tmp_path: Path, frames: int) -> None:
    files = [stem_file(tmp_path / f"{number}.wav", take) for number, take in enumerate(takes(frames))]
    for algorithm in (Algorithm.MEDIAN_FFT, Algorithm.UVR_MIN_SPEC, Algorithm.MAX_WAVE):
        stock = lab.by_the_library(files, algorithm, None)
        assert sdr_db(stock.T, combine(algorithm, files).T) > 120


@pytest.mark.parametrize("algorithm", [algorithm for algorithm in Algorithm if works_on_spectra(algorithm)])
@pytest.mark.parametrize("frames", [1, HOP - 1, 3 * HOP + 1, 3 * HOP + 1023, BLOCK_FRAMES + 1, 2 * BLOCK_FRAMES - 1])
def test_the_end_of_a_song_is_like_the_rest_of_it(tmp_path: Path, algorithm: Algorithm, frames: int) -> None:
    """The library leaves it out, or multiplies it by thousands: its last frame has hardly any window there."""
    stems = takes(frames)
    files = [stem_file(tmp_path / f"{number}.wav", take) for number, take in enumerate(stems)]
    ours = combine(algorithm, files)
    assert ours.shape == (frames, 2)
    assert np.max(np.abs(ours)) < 2 * max(np.max(np.abs(stem)) for stem in stems)
    if algorithm is Algorithm.AVG_FFT:
        assert sdr_db(np.mean(stems, axis=0).T, ours.T) > 120


@pytest.mark.parametrize("algorithm", Algorithm)
def test_equal_stems_are_what_comes_of_them(tmp_path: Path, algorithm: Algorithm) -> None:
    (take,) = takes(3 * HOP + 5, 1)
    files = [stem_file(tmp_path / f"{number}.wav", take) for number in range(3)]
    assert sdr_db(take.T, combine(algorithm, files).T) > 120


@pytest.mark.parametrize(
    ("algorithm", "number"), [("max_fft", 0), ("min_fft", 0), ("uvr_max_spec", 1), ("uvr_min_spec", 1), ("max_wave", 0)]
)
def test_of_equal_ones_the_first_or_the_last_is_taken(tmp_path: Path, algorithm: str, number: int) -> None:
    (take,) = takes(4 * HOP, 1)
    both = [take, -take]
    files = [stem_file(tmp_path / f"{position}.wav", stem) for position, stem in enumerate(both)]
    assert sdr_db(both[number].T, combine(Algorithm(algorithm), files).T) > 120


def test_weights_that_are_not_one_for_each_do_not_count(tmp_path: Path) -> None:
    """As for a stem that one of the models does not have."""
    stems = takes(1000, 2)
    files = [stem_file(tmp_path / f"{number}.wav", take) for number, take in enumerate(stems)]
    np.testing.assert_array_equal(
        combine(Algorithm.AVG_WAVE, files, [1.0, 5.0, 3.0]), combine(Algorithm.AVG_WAVE, files)
    )
    np.testing.assert_array_equal(combine(Algorithm.AVG_WAVE, files[:1], [5.0, 1.0]), stems[0])


@pytest.mark.parametrize("algorithm", [Algorithm.MEDIAN_WAVE, Algorithm.ENSEMBLE_WAV, Algorithm.MAX_FFT])
def test_memory_does_not_grow_with_the_song(tmp_path: Path, algorithm: Algorithm) -> None:
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
def test_stems_of_different_models_meet_under_one_name(stems: tuple[str, ...], names: tuple[str, ...]) -> None:
    assert tuple(common_names(stems)[stem] for stem in stems) == names


@pytest.mark.slow
def test_an_ensemble_of_three_architectures(lab: Lab, song: Mixture, voices: list[Path]) -> None:
    ensemble = Ensemble(ensemble=(MDX, MDXC, DEMUCS), weights=(1.0, 3.0, 0.5))

    stems, progress, happened, device = lab.separated(ensemble, song)

    assert not isinstance(stems, Refusal), stems
    by_name = {stem.name: stem for stem in stems}
    assert set(by_name) == {"vocals", "instrumental", "drums", "bass", "other"}
    assert {stem.frames for stem in stems} == {song.frames}
    ours = soundfile.read(by_name["vocals"].path, dtype="float32")[0]
    np.testing.assert_array_equal(ours, lab.by_the_library(voices, Algorithm.AVG_WAVE, [1.0, 3.0, 0.5]))
    assert progress == sorted(progress)
    assert (progress[0], progress[-1]) == (0.0, 1.0)
    assert any(0 < share < 1 / 3 for share in progress) or any(1 / 3 < share < 2 / 3 for share in progress)
    assert happened == [f"loaded {model}" for model in (MDX, MDXC, DEMUCS)]
    assert device == "cpu"
    assert sorted(path.name for path in lab.folder.iterdir()) == sorted(f"{name}.wav" for name in by_name)


@pytest.mark.slow
def test_no_more_models_are_loaded_at_a_time_than_fit(lab: Lab, song: Mixture) -> None:
    ensemble = Ensemble(ensemble=(MDX, MDXC), algorithm=Algorithm.MAX_FFT)
    stems, _, happened, _ = lab.separated(ensemble, song, limit=1)
    assert not isinstance(stems, Refusal), stems
    stock = lab.call(several_models.stems_of_the_library, lab.models, lab.scratch, song, list(ensemble.ensemble))
    assert {stem.name for stem in stems} == {name.lower() for name in stock} == {"vocals", "instrumental"}
    assert happened == [f"loaded {MDX}", f"dropped {MDX}", f"loaded {MDXC}"]


@pytest.mark.slow
def test_only_what_is_wanted_comes_and_it_has_to_exist(lab: Lab, song: Mixture) -> None:
    stems, *_ = lab.separated(Ensemble(ensemble=(MDX, MDXC)), song, stems=("instrumental",))
    assert not isinstance(stems, Refusal), stems
    assert [stem.name for stem in stems] == ["instrumental"]

    refusal, progress, _, _ = lab.separated(Ensemble(ensemble=(MDX, MDXC)), song, stems=("vocals", "zither"))
    assert refusal == Refusal(
        ErrorKind.PERMANENT,
        ErrorCode.STEM_UNKNOWN,
        "the model has no stem named zither; it has instrumental, vocals",
    )
    assert progress == []


@pytest.mark.slow
def test_a_member_that_nobody_knows_is_named_before_any_is_run(lab: Lab, song: Mixture) -> None:
    refusal, progress, happened, _ = lab.separated(Ensemble(ensemble=(MDX, "nobody.ckpt")), song)
    assert refusal == Refusal(
        ErrorKind.PERMANENT,
        ErrorCode.MODEL_UNKNOWN,
        "there is no model named nobody.ckpt: no list of models has it",
    )
    assert (progress, happened) == ([], [])


@pytest.mark.slow
@pytest.mark.parametrize("cancel_at", [0.0, 0.5, 1.0])
def test_a_cancel_leaves_nothing(lab: Lab, song: Mixture, cancel_at: float) -> None:
    """During the first model, during the second, while their stems are combined."""
    refusal, progress, _, _ = lab.separated(Ensemble(ensemble=(MDX, MDXC)), song, cancel_at=cancel_at)
    assert isinstance(refusal, Refusal)
    assert refusal.kind == ErrorKind.CANCELLED
    assert progress[-1] >= cancel_at
    assert list(lab.folder.iterdir()) == []


# --- the driver, with models of a line each ---


class Toy:
    """Gives these stems, each its own number, in blocks."""

    device = "cpu"

    def __init__(self, *stems: str, broken: str = "", told: bool = True) -> None:
        self._numbers, self._broken = {stem: number for number, stem in enumerate(stems, 1)}, broken
        self.stems = frozenset(stems) if told else None

    def only(self, wanted: Collection[str]) -> Toy:
        other = copy.copy(self)
        other._numbers = {stem: number for stem, number in self._numbers.items() if stem in wanted}
        return other

    def lighter(self) -> ReducedSeparator | None:
        raise NotImplementedError

    def separate(self, mixture: Path, write: Write, on_progress: OnProgress) -> None:
        frames = soundfile.info(mixture).frames
        for part in (0, 1):
            on_progress(part / 2)
            for stem, number in self._numbers.items():
                short = stem == self._broken == "short"
                value = np.nan if stem == self._broken and not short else number
                write(stem, np.full((frames // 2 - short, 2), value, np.float32))


def models_of(separators: Mapping[str, Separator]) -> LoadModel:
    """Of these, each with one try."""

    def attempted(model: str, attempt: Callable[[Separator], T]) -> T:
        return attempt(separators[model])

    return LoadModel(attempted, lambda name: separators[name].stems)


@pytest.fixture
def mixture(tmp_path: Path) -> Path:
    return stem_file(tmp_path / "mixture.wav", np.zeros((1000, 2), np.float32))


def run(
    folder: Path, mixture: Path, wanted: tuple[str, ...] | None = None, **models: Separator
) -> tuple[dict[str, float], list[float]]:
    """The value of each stem, and the progress."""
    found: dict[str, float] = {}
    progress: list[float] = []
    ensemble = Ensemble(ensemble=tuple(models))
    separator = EnsembleSeparator(ensemble, models_of(models), wanted, folder)
    separator.separate(mixture, lambda name, block: found.update({name: float(block[0, 0])}), progress.append)
    return found, progress


def test_the_progress_is_the_share_over_all_models(tmp_path: Path, mixture: Path) -> None:
    found, progress = run(tmp_path, mixture, a=Toy("vocals", "drums"), b=Toy("drums", "vocals"))
    assert found == {"vocals": 1.5, "drums": 1.5}
    assert progress == [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]


def test_what_is_combined_is_gone_from_the_disk(tmp_path: Path, mixture: Path) -> None:
    models = {"a": Toy("vocals", "drums"), "b": Toy("vocals", "drums")}
    separator = EnsembleSeparator(
        Ensemble(ensemble=("a", "b")),
        models_of(models),
        None,
        tmp_path,
    )
    files: dict[str, int] = {}
    separator.separate(
        mixture,
        lambda name, _block: files.update({name: len(list(tmp_path.rglob("*/*.wav")))}),
        lambda _fraction: None,
    )
    assert files == {"vocals": 4, "drums": 2}
    assert [path.name for path in tmp_path.iterdir()] == ["mixture.wav"]


def test_what_only_some_have_is_made_of_theirs(tmp_path: Path, mixture: Path) -> None:
    found, _ = run(tmp_path, mixture, a=Toy("vocals", "other"), b=Toy("drums", "bass", "other", "vocals"))
    assert found == {"vocals": 2.5, "instrumental": 2.0, "drums": 1.0, "bass": 2.0, "other": 3.0}


def test_models_that_only_a_run_tells_of(tmp_path: Path, mixture: Path) -> None:
    models = {"a": Toy("vocals", "other", told=False), "b": Toy("vocals", "instrumental")}
    assert run(tmp_path, mixture, ("instrumental",), **models)[0] == {"instrumental": 2.0}
    assert EnsembleSeparator(Ensemble(ensemble=("a", "b")), models_of(models), None, tmp_path).stems is None


def test_a_model_without_a_wanted_stem_is_not_run(tmp_path: Path, mixture: Path) -> None:
    found, progress = run(tmp_path, mixture, ("drums",), a=Toy("vocals", "instrumental"), b=Toy("drums", "bass"))
    assert found == {"drums": 1.0}
    assert progress == [0.5, 0.75, 1.0]


@pytest.mark.parametrize(
    ("stem", "sentence"), [("drums", "drums has samples that are no numbers"), ("short", "short has 998 samples")]
)
def test_a_model_whose_stems_are_none_fails_them_all(tmp_path: Path, mixture: Path, stem: str, sentence: str) -> None:
    with pytest.raises(StemMissingError, match=sentence):
        run(tmp_path, mixture, a=Toy("drums"), b=Toy("drums", stem, broken=stem))
    assert [path.name for path in tmp_path.iterdir()] == ["mixture.wav"]


def test_a_stem_that_was_promised_has_to_come(tmp_path: Path, mixture: Path) -> None:
    silent = Toy("drums")
    silent.stems = frozenset(("drums", "bass"))
    with pytest.raises(StemMissingError, match="the model gave no bass"):
        run(tmp_path, mixture, a=silent, b=Toy("drums"))


# --- presets ---


def test_all_presets_of_the_library_can_be_asked_for(tmp_path: Path) -> None:
    catalogue = read_catalogue(tmp_path)
    theirs = bundled("ensemble_presets.json")["presets"]
    ours = presets.presets()
    assert theirs.keys() == ours.keys()
    assert len(ours) >= 9
    for name, preset in theirs.items():
        assert list(ours[name].ensemble) == preset["models"]
        assert ours[name].algorithm == preset["algorithm"]
        assert ours[name].weights == preset["weights"]
        for model in ours[name].ensemble:
            catalogue.find(model)


def test_a_preset_stands_for_its_models_and_any_other_name_for_itself() -> None:
    assert str(presets.resolved("vocal_full")).startswith("max_fft: bs_roformer_vocals_revive_v3e_unwa.ckpt, mel_band")
    assert presets.resolved("a.onnx") == "a.onnx"
    ensemble = Ensemble(ensemble=("a.onnx", "b.onnx"))
    assert presets.resolved(ensemble) is ensemble
