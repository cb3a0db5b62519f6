"""The encoder: quantisation, gain, formats and failures."""

from __future__ import annotations

import hashlib
import resource
import signal
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import ErrorCode, PermanentError
from pipeline.messages import OutputFormat
from uploader.encode import BLOCK_FRAMES, common_gain, container_format, encode, gain_note

REPOSITORY = Path(__file__).resolve().parents[2]
STEP = 1 / 32768
FORMATS = list(OutputFormat)


def source(folder: Path, samples: np.ndarray, rate: int = 44100) -> Path:
    path = folder / "raw.wav"
    soundfile.write(path, np.asarray(samples, dtype=np.float32), rate, subtype="FLOAT")
    return path


def decoded(path: Path) -> np.ndarray:
    samples, _ = soundfile.read(path, dtype="int16", always_2d=True)
    return np.asarray(samples)


@pytest.mark.parametrize("output_format", FORMATS)
def test_samples_are_rounded(tmp_path: Path, output_format: OutputFormat) -> None:
    steps = np.array([0.0, 0.49, 0.51, 1.49, 1.51, -0.49, -0.51, -1.49, -1.51, 0.5, 1.5, 2.5, -0.5, -1.5])
    expected = [0, 0, 1, 1, 2, 0, -1, -1, -2, 0, 2, 2, 0, -2]
    target = tmp_path / "stem"
    encode(source(tmp_path, steps * STEP), target, output_format)
    assert decoded(target)[:, 0].tolist() == expected


@pytest.mark.parametrize("output_format", FORMATS)
def test_16_bit_samples_are_reproduced_exactly(tmp_path: Path, output_format: OutputFormat) -> None:
    every = np.arange(-32768, 32768, dtype=np.int16).reshape(-1, 2)
    target = tmp_path / "stem"
    encode(source(tmp_path, every * STEP), target, output_format)
    np.testing.assert_array_equal(decoded(target), every)


@pytest.mark.parametrize("output_format", FORMATS)
def test_full_scale_is_kept_except_for_the_missing_positive_step(tmp_path: Path, output_format: OutputFormat) -> None:
    peak = np.float32(1.0)
    edge = np.array([peak, -peak, np.nextafter(peak, np.float32(0)), 1 - STEP, STEP - 1], np.float32)
    target = tmp_path / "stem"
    encode(source(tmp_path, edge), target, output_format, common_gain([float(peak)]))
    assert decoded(target)[:, 0].tolist() == [32767, -32768, 32767, 32767, -32767]


@pytest.mark.parametrize("output_format", FORMATS)
def test_stem_stays_aligned(tmp_path: Path, output_format: OutputFormat) -> None:
    """No sample is shifted against the hand-off, and the number of samples is the same."""
    clicks = np.zeros((100_001, 2))
    clicks[[0, 1234, 65_536, 100_000]] = 0.5
    target = tmp_path / "stem"
    encode(source(tmp_path, clicks), target, output_format)
    np.testing.assert_array_equal(decoded(target), clicks * 32768)


@pytest.mark.parametrize("output_format", FORMATS)
@pytest.mark.parametrize("frames", [1, BLOCK_FRAMES - 1, BLOCK_FRAMES, BLOCK_FRAMES + 1, 2 * BLOCK_FRAMES + 7])
def test_length_rate_and_channels_are_kept(tmp_path: Path, output_format: OutputFormat, frames: int) -> None:
    noise = np.random.default_rng(0).uniform(-1, 1, (frames, 3)).astype(np.float32)
    target = tmp_path / "stem"
    encode(source(tmp_path, noise, rate=48000), target, output_format)
    info = soundfile.info(target)
    assert (info.frames, info.samplerate, info.channels) == (frames, 48000, 3)
    assert (info.format, info.subtype) == (output_format.value.upper(), "PCM_16")
    np.testing.assert_array_equal(decoded(target), np.rint(noise.astype(float) * 32768).clip(-32768, 32767))


@pytest.mark.parametrize("output_format", FORMATS)
def test_output_is_reproducible_and_hashed(tmp_path: Path, output_format: OutputFormat) -> None:
    noise = np.random.default_rng(1).uniform(-1, 1, (100_000, 2))
    raw = source(tmp_path, noise)
    first = encode(raw, tmp_path / "first", output_format, gain=0.7)
    second = encode(raw, tmp_path / "second", output_format, gain=0.7)
    content = (tmp_path / "first").read_bytes()
    assert content == (tmp_path / "second").read_bytes()
    assert first == second
    assert first.sha256 == hashlib.sha256(content).hexdigest()
    assert first.bytes == len(content)


def test_memory_is_constant(tmp_path: Path) -> None:
    """Compares the traced allocations for a file of 10 blocks with those for 5 blocks."""
    peaks = []
    for blocks in (5, 10):
        raw = source(tmp_path, np.zeros((blocks * BLOCK_FRAMES, 2)))
        tracemalloc.start()
        encode(raw, tmp_path / "stem", OutputFormat.WAV)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]


def test_stems_within_full_scale_are_not_attenuated() -> None:
    assert common_gain([0.2, 1.0]) == 1.0
    assert common_gain([]) == 1.0


@given(st.lists(st.floats(min_value=0, max_value=1e6), min_size=1))
def test_common_gain_puts_the_loudest_stem_just_below_clipping(peaks: list[float]) -> None:
    gain = common_gain(peaks)
    assert 0 < gain <= 1
    loudest = max(peaks) * gain
    assert loudest <= 1.0
    assert gain == 1.0 or round(loudest * 32768) == 32767


def test_loud_stems_still_sum_to_the_mixture(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    mixture = rng.uniform(-0.9, 0.9, (5000, 2))
    vocals = rng.uniform(-1.4, 1.4, (5000, 2))
    stems = [vocals, mixture - vocals]
    gain = common_gain(float(np.abs(stem).max()) for stem in stems)
    total = np.zeros_like(mixture)
    for stem in stems:
        encode(source(tmp_path, stem), tmp_path / "stem", OutputFormat.WAV, gain)
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
        encode(raw, tmp_path / "stem", OutputFormat.WAV)
    assert caught.value.code is ErrorCode.SEPARATION_FAILED


def test_file_that_is_not_audio_fails_the_job(tmp_path: Path) -> None:
    raw = tmp_path / "raw.wav"
    raw.write_bytes(b"not audio at all")
    with pytest.raises(PermanentError, match="not readable"):
        encode(raw, tmp_path / "stem", OutputFormat.WAV)


@pytest.mark.parametrize(("shape", "sentence"), [((0, 2), "empty"), ((10, 9), "does not fit into a flac file")])
def test_source_that_does_not_fit_into_flac_fails(tmp_path: Path, shape: tuple[int, int], sentence: str) -> None:
    with pytest.raises(PermanentError, match=sentence):
        encode(source(tmp_path, np.zeros(shape)), tmp_path / "stem", OutputFormat.FLAC)


def test_wav_beyond_32_bit_sizes_becomes_rf64() -> None:
    assert container_format(OutputFormat.WAV, 2**32 - 8192) == "WAV"
    assert container_format(OutputFormat.WAV, 2**32) == "RF64"
    assert container_format(OutputFormat.FLAC, 2**33) == "FLAC"


def _limit_file_size(limit: int) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))


@pytest.mark.parametrize("output_format", FORMATS)
@pytest.mark.parametrize("missing", [1, 50_000])
def test_incomplete_output_is_detected(tmp_path: Path, output_format: OutputFormat, missing: int) -> None:
    """Runs in a separate process with a file size limit, which behaves like a full disk."""
    raw = source(tmp_path, np.random.default_rng(3).uniform(-1, 1, (100_000, 2)))
    size = encode(raw, tmp_path / "whole", output_format).bytes
    program = (
        "import sys; from pathlib import Path; from pipeline.errors import InfrastructureError\n"
        "from pipeline.messages import OutputFormat; from uploader.encode import encode\n"
        "try:\n encode(Path(sys.argv[1]), Path(sys.argv[2]), OutputFormat(sys.argv[3]))\n"
        "except InfrastructureError as error:\n print(error.code)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", program, str(raw), str(tmp_path / "stem"), output_format.value],
        cwd=REPOSITORY,
        preexec_fn=lambda: _limit_file_size(size - missing),
        stdout=subprocess.PIPE,
        text=True,
        timeout=60,
        check=True,
    )
    assert run.stdout.strip() == ErrorCode.DISK_FULL
