"""The encoder: quantisation, gain, formats and failures."""

from __future__ import annotations

import hashlib
import resource
import signal
import subprocess
import sys
import tracemalloc
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import ErrorCode, PermanentError
from pipeline.messages import OutputFormat, SeparationResult, SeparationTask, SourceAudio
from uploader.encode import BLOCK_FRAMES, common_gain, container_format, encode, gain_note, stem_bits

REPOSITORY = Path(__file__).resolve().parents[2]
STEP = 1 / 32768
CONTAINERS = ("wav", "flac")
#: Integer formats and their bits.
INTEGERS = [(container, bits) for container in CONTAINERS for bits in (16, 24)]
ALL = [*INTEGERS, ("wav", 32)]


def source(folder: Path, samples: np.ndarray, rate: int = 44100) -> Path:
    path = folder / "raw.wav"
    soundfile.write(path, np.asarray(samples, dtype=np.float32), rate, subtype="FLOAT")
    return path


def decoded(path: Path) -> np.ndarray:
    samples, _ = soundfile.read(path, dtype="int16", always_2d=True)
    return np.asarray(samples)


@pytest.mark.parametrize("container", CONTAINERS)
def test_samples_are_rounded(tmp_path: Path, container: str) -> None:
    steps = np.array([0.0, 0.49, 0.51, 1.49, 1.51, -0.49, -0.51, -1.49, -1.51, 0.5, 1.5, 2.5, -0.5, -1.5])
    expected = [0, 0, 1, 1, 2, 0, -1, -1, -2, 0, 2, 2, 0, -2]
    target = tmp_path / "stem"
    encode(source(tmp_path, steps * STEP), target, container)
    assert decoded(target)[:, 0].tolist() == expected


@pytest.mark.parametrize("container", CONTAINERS)
def test_16_bit_samples_are_reproduced_exactly(tmp_path: Path, container: str) -> None:
    every = np.arange(-32768, 32768, dtype=np.int16).reshape(-1, 2)
    target = tmp_path / "stem"
    encode(source(tmp_path, every * STEP), target, container)
    np.testing.assert_array_equal(decoded(target), every)


@pytest.mark.parametrize("container", CONTAINERS)
def test_full_scale_is_kept_except_for_the_missing_positive_step(tmp_path: Path, container: str) -> None:
    peak = np.float32(1.0)
    edge = np.array([peak, -peak, np.nextafter(peak, np.float32(0)), 1 - STEP, STEP - 1], np.float32)
    target = tmp_path / "stem"
    encode(source(tmp_path, edge), target, container, gain=common_gain([float(peak)], 16))
    assert decoded(target)[:, 0].tolist() == [32767, -32768, 32767, 32767, -32767]


@pytest.mark.parametrize("container", CONTAINERS)
def test_stem_stays_aligned(tmp_path: Path, container: str) -> None:
    """No sample is shifted against the hand-off, and the number of samples is the same."""
    clicks = np.zeros((100_001, 2))
    clicks[[0, 1234, 65_536, 100_000]] = 0.5
    target = tmp_path / "stem"
    encode(source(tmp_path, clicks), target, container)
    np.testing.assert_array_equal(decoded(target), clicks * 32768)


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("frames", [1, BLOCK_FRAMES - 1, BLOCK_FRAMES, BLOCK_FRAMES + 1, 2 * BLOCK_FRAMES + 7])
def test_length_rate_and_channels_are_kept(tmp_path: Path, container: str, frames: int) -> None:
    noise = np.random.default_rng(0).uniform(-1, 1, (frames, 3)).astype(np.float32)
    target = tmp_path / "stem"
    encode(source(tmp_path, noise, rate=48000), target, container)
    info = soundfile.info(target)
    assert (info.frames, info.samplerate, info.channels) == (frames, 48000, 3)
    assert (info.format, info.subtype) == (container.upper(), "PCM_16")
    np.testing.assert_array_equal(decoded(target), np.rint(noise.astype(float) * 32768).clip(-32768, 32767))


@pytest.mark.parametrize(("container", "bits"), ALL)
def test_output_is_reproducible_and_hashed(tmp_path: Path, container: str, bits: int) -> None:
    noise = np.random.default_rng(1).uniform(-1, 1, (100_000, 2))
    raw = source(tmp_path, noise)
    first = encode(raw, tmp_path / "first", container, bits=bits, gain=0.7)
    second = encode(raw, tmp_path / "second", container, bits=bits, gain=0.7)
    content = (tmp_path / "first").read_bytes()
    assert content == (tmp_path / "second").read_bytes()
    assert first == second
    assert first.sha256 == hashlib.sha256(content).hexdigest()
    assert first.bytes == len(content)


@pytest.mark.parametrize(("container", "bits"), ALL)
def test_depths_keep_their_precision(tmp_path: Path, container: str, bits: int) -> None:
    """A song at -84 dBFS has two steps of 16 bits; the other depths keep it audible."""
    quiet = (10 ** (-84 / 20) * np.random.default_rng(1).uniform(-1, 1, (50_000, 2))).astype(np.float32)
    target = tmp_path / "stem"
    encode(source(tmp_path, quiet), target, container, bits=bits)
    found, _ = soundfile.read(target, dtype="float64")
    assert soundfile.info(target).subtype == ("FLOAT" if bits == 32 else f"PCM_{bits}")
    assert np.abs(found - quiet).max() <= (0 if bits == 32 else 0.5 / 2 ** (bits - 1))


@pytest.mark.parametrize("container", CONTAINERS)
def test_24_bit_samples_are_reproduced_exactly(tmp_path: Path, container: str) -> None:
    some = np.random.default_rng(2).integers(-(2**23), 2**23, (50_000, 2))
    some[:4] = [[-(2**23), 2**23 - 1], [-1, 0], [1, 2], [-(2**23) + 1, 255]]
    target = tmp_path / "stem"
    encode(source(tmp_path, some / 2**23), target, container, bits=24)
    np.testing.assert_array_equal(soundfile.read(target, dtype="int32")[0], some << 8)


def test_float_keeps_samples_beyond_full_scale(tmp_path: Path) -> None:
    loud = np.random.default_rng(3).uniform(-3, 3, (10_000, 2)).astype(np.float32)
    gain = common_gain([float(np.abs(loud).max())], 32)
    target = tmp_path / "stem"
    encode(source(tmp_path, loud), target, "wav", bits=32, gain=gain)
    np.testing.assert_array_equal(soundfile.read(target, dtype="float32")[0], loud)
    assert b"PEAK" not in target.read_bytes()[:200]  # a chunk with the time of day


@pytest.mark.parametrize(
    ("output_format", "source_bits", "bits"),
    [
        ("wav", None, 16),
        ("wav", 16, 16),
        ("wav", 24, 24),
        ("flac", 24, 24),
        ("wav16", 24, 16),
        ("flac16", 24, 16),
        ("wav24", 16, 24),
        ("flac24", None, 24),
        ("wav32f", 16, 32),
    ],
)
def test_depth_is_that_of_the_format_or_of_the_source(output_format: str, source_bits: int | None, bits: int) -> None:
    task = SeparationTask(
        task_uuid=uuid4(), audio="http://a/", hook_url="http://b/", output_format=OutputFormat(output_format)
    )
    audio = None if source_bits is None else SourceAudio(sample_rate=48_000, bits=source_bits)
    result = SeparationResult(task_uuid=task.task_uuid, task=task, status="success", source=audio)
    assert stem_bits(result) == bits
    assert task.output_format.extension == ("flac" if "flac" in output_format else "wav")


def test_dither_makes_the_error_independent_of_the_signal(tmp_path: Path) -> None:
    """A tone below one step, which rounding alone would delete, is kept below constant noise."""
    tone = np.repeat(0.4 * STEP * np.sin(np.arange(200_000) * 0.05)[:, None], 2, axis=1)
    raw = source(tmp_path, tone)
    for name, seed in (("none", None), ("first", "task vocals"), ("again", "task vocals"), ("other", "task bass")):
        encode(raw, tmp_path / name, "wav", dither=seed)
    assert not decoded(tmp_path / "none").any()
    first = decoded(tmp_path / "first")
    error = first - tone / STEP
    assert np.abs(error).max() <= 1.5
    assert abs(np.var(error) - 0.25) < 0.01  # one twelfth by rounding, and two by the noise
    assert abs(np.mean(error * tone) / np.mean(tone**2)) * STEP < 0.03
    assert abs(np.mean(np.prod(error, axis=1)) / np.var(error)) < 0.02
    np.testing.assert_array_equal(decoded(tmp_path / "again"), first)
    assert (decoded(tmp_path / "other") != first).mean() > 0.3


def test_dither_applies_to_16_bits_only(tmp_path: Path) -> None:
    raw = source(tmp_path, np.zeros((1000, 2)))
    for bits in (24, 32):
        encode(raw, tmp_path / "stem", "wav", bits=bits, dither="task vocals")
        assert not soundfile.read(tmp_path / "stem")[0].any()


def test_memory_is_constant(tmp_path: Path) -> None:
    """Compares the traced allocations for a file of 10 blocks with those for 5 blocks."""
    peaks = []
    for blocks in (5, 10):
        raw = source(tmp_path, np.zeros((blocks * BLOCK_FRAMES, 2)))
        tracemalloc.start()
        encode(raw, tmp_path / "stem", "wav")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]


def test_stems_within_full_scale_are_not_attenuated() -> None:
    assert common_gain([0.2, 1.0], 16) == 1.0
    assert common_gain([], 16) == 1.0


@given(st.lists(st.floats(min_value=0, max_value=1e6), min_size=1))
def test_common_gain_puts_the_loudest_stem_just_below_clipping(peaks: list[float]) -> None:
    for bits in (16, 24):
        gain = common_gain(peaks, bits)
        assert 0 < gain <= 1
        loudest = max(peaks) * gain
        assert loudest <= 1.0
        assert gain == 1.0 or round(loudest * 2 ** (bits - 1)) == 2 ** (bits - 1) - 1


def test_loud_stems_still_sum_to_the_mixture(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    mixture = rng.uniform(-0.9, 0.9, (5000, 2))
    vocals = rng.uniform(-1.4, 1.4, (5000, 2))
    stems = [vocals, mixture - vocals]
    gain = common_gain((float(np.abs(stem).max()) for stem in stems), 16)
    total = np.zeros_like(mixture)
    for stem in stems:
        encode(source(tmp_path, stem), tmp_path / "stem", "wav", gain=gain)
        samples = decoded(tmp_path / "stem")
        assert np.abs(samples.astype(int)).max() <= 32767
        total += samples * STEP
    # Half a step of rounding for each stem, and the float32 of the hand-off.
    np.testing.assert_allclose(total, gain * mixture, rtol=0, atol=1.01 * STEP)


def test_gain_note_is_in_decibels() -> None:
    assert gain_note(0.5) == "gain -6.02 dB on every stem, so that none clips"


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_numbers_fail_the_job(tmp_path: Path, bad: float) -> None:
    raw = source(tmp_path, np.array([0.0, bad, 0.0]))
    with pytest.raises(PermanentError) as caught:
        encode(raw, tmp_path / "stem", "wav")
    assert caught.value.code is ErrorCode.SEPARATION_FAILED


def test_file_that_is_not_audio_fails_the_job(tmp_path: Path) -> None:
    raw = tmp_path / "raw.wav"
    raw.write_bytes(b"not audio at all")
    with pytest.raises(PermanentError, match="not readable"):
        encode(raw, tmp_path / "stem", "wav")


@pytest.mark.parametrize(("shape", "sentence"), [((0, 2), "empty"), ((10, 9), "does not fit into a flac file")])
def test_source_that_does_not_fit_into_flac_fails(tmp_path: Path, shape: tuple[int, int], sentence: str) -> None:
    with pytest.raises(PermanentError, match=sentence):
        encode(source(tmp_path, np.zeros(shape)), tmp_path / "stem", "flac")


def test_wav_beyond_32_bit_sizes_becomes_rf64() -> None:
    assert container_format("wav", 2**32 - 8192) == "WAV"
    assert container_format("wav", 2**32) == "RF64"
    assert container_format("flac", 2**33) == "FLAC"


def _limit_file_size(limit: int) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))


@pytest.mark.parametrize(("container", "bits"), ALL)
@pytest.mark.parametrize("missing", [1, 50_000])
def test_incomplete_output_is_detected(tmp_path: Path, container: str, bits: int, missing: int) -> None:
    """Runs in a separate process with a file size limit, which behaves like a full disk."""
    raw = source(tmp_path, np.random.default_rng(3).uniform(-1, 1, (100_000, 2)))
    size = encode(raw, tmp_path / "whole", container, bits=bits).bytes
    program = (
        "import sys; from pathlib import Path; from pipeline.errors import InfrastructureError\n"
        "from uploader.encode import encode\n"
        "try:\n encode(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], bits=int(sys.argv[4]))\n"
        "except InfrastructureError as error:\n print(error.code)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", program, str(raw), str(tmp_path / "stem"), container, str(bits)],
        cwd=REPOSITORY,
        preexec_fn=lambda: _limit_file_size(size - missing),
        stdout=subprocess.PIPE,
        text=True,
        timeout=60,
        check=True,
    )
    assert run.stdout.strip() == ErrorCode.DISK_FULL
