"""The decoded audio of intact source files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from pipeline.errors import ErrorCode
from tests.processor.source_files import RATE, decoded, lag, noise, refusal, write_av, write_pcm


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
def test_44_1_khz_stereo_wav_is_exact_except_for_scaling(tmp_path: Path, subtype: str) -> None:
    source = write_pcm(tmp_path / "song.wav", noise(0.5), subtype=subtype)
    truth = soundfile.read(source, dtype="float32")[0].T

    song = decoded(source)

    assert song.mixture.peak == np.max(np.abs(truth))
    np.testing.assert_array_equal(song.scaled, truth / np.float32(song.mixture.peak))
    assert np.max(np.abs(song.scaled)) == 1.0
    assert song.mixture.notes == ()


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 32000, 44100, 48000, 88200, 96000, 192000])
def test_every_sample_rate_is_resampled_to_44_1_khz_without_delay(tmp_path: Path, rate: int) -> None:
    signal = noise(2.0, rate=rate)
    truth = _resampled(signal, rate)

    song = decoded(write_pcm(tmp_path / "song.wav", signal, rate=rate, subtype="FLOAT"))

    assert song.mixture.frames == 2 * RATE
    assert (song.mixture.source_rate, song.mixture.source_frames) == (rate, 2 * rate)
    assert lag(truth, song.signal) == 0
    middle = slice(RATE // 2, RATE)
    error = song.signal[:, middle] - truth[:, middle]
    assert np.mean(error**2) < 1e-10 * np.mean(truth[:, middle] ** 2)


def _resampled(signal: np.ndarray, rate: int) -> np.ndarray:
    """Resample by the spectrum of the whole signal, which is exact."""
    frames = round(signal.shape[1] * RATE / rate)
    bins = frames // 2 + 1
    spectrum = np.fft.rfft(signal.astype(np.float64))
    fitted = np.zeros((signal.shape[0], bins), complex)
    shared = min(bins, spectrum.shape[1])
    fitted[:, :shared] = spectrum[:, :shared]
    return np.asarray(np.fft.irfft(fitted, frames) * frames / signal.shape[1], np.float32)


@pytest.mark.parametrize(
    ("codec", "container", "delay"),
    [
        ("libmp3lame", "mp3", 0),
        ("aac", "mp4", 0),
        ("flac", "flac", 0),
        ("libopus", "ogg", 0),
        ("libopus", "webm", 0),
        # These formats have no field for the encoder's delay; players play it too.
        ("aac", "adts", 1024),
        ("aac", "mpegts", 1024),
    ],
)
def test_lossy_formats_are_decoded_without_delay(tmp_path: Path, codec: str, container: str, delay: int) -> None:
    rate = 48_000 if codec == "libopus" else RATE
    song = decoded(write_av(tmp_path / "song", noise(3.0, rate=rate), codec, container, rate=rate))

    truth = _resampled(noise(3.0, rate=rate), rate)
    assert lag(truth, song.signal) == delay
    error = song.signal[:, delay : delay + 2 * RATE] - truth[:, : 2 * RATE]
    assert np.mean(error**2) < 0.1 * np.mean(truth**2)
    assert abs(song.mixture.duration - 3.0) < 0.05
    assert song.mixture.notes == ()


def test_vorbis_is_decoded_without_delay(tmp_path: Path) -> None:
    song = decoded(write_pcm(tmp_path / "song.ogg", noise(3.0), subtype="VORBIS"))
    assert lag(noise(3.0), song.signal) == 0
    assert song.mixture.frames == 3 * RATE


def test_mono_becomes_stereo_at_the_same_level(tmp_path: Path) -> None:
    mono = noise(0.5, channels=1)
    song = decoded(write_pcm(tmp_path / "song.wav", mono, subtype="FLOAT"))
    np.testing.assert_allclose(song.signal, np.repeat(mono, 2, axis=0), rtol=1e-6, atol=0)
    assert song.mixture.notes == ()


@pytest.mark.parametrize(("layout", "channels"), [("5.1", 6), ("3.0", 3)])
def test_surround_is_down_mixed_with_a_note(tmp_path: Path, layout: str, channels: int) -> None:
    signal = np.zeros((channels, RATE), np.float32)
    signal[2] = noise(1.0, channels=1)[0]  # the centre
    song = decoded(write_av(tmp_path / "song.flac", signal, "flac", "flac", layout=layout))
    assert song.mixture.notes == (f"down-mixed from {channels} channels to stereo",)
    # Half the centre's power on each side: ITU-R BS.775-3, annex 4.
    np.testing.assert_allclose(song.signal, np.sqrt(0.5) * np.repeat(signal[2:3], 2, axis=0), atol=1e-4)


@pytest.mark.parametrize("channels", [3, 6, 8, 16])
def test_surround_without_a_layout_is_down_mixed(tmp_path: Path, channels: int) -> None:
    song = decoded(write_pcm(tmp_path / "song.wav", noise(0.2, channels=channels)))
    assert song.mixture.notes == (f"down-mixed from {channels} channels to stereo",)
    assert song.mixture.peak > 0.1


def test_loud_sources_keep_their_level(tmp_path: Path) -> None:
    signal = noise(0.5, peak=3.7)
    song = decoded(write_pcm(tmp_path / "song.wav", signal, subtype="FLOAT"))
    assert song.mixture.peak == np.float32(3.7)
    assert np.max(np.abs(song.scaled)) == 1.0
    np.testing.assert_allclose(song.signal, signal, rtol=1e-6, atol=0)


@pytest.mark.parametrize("peak", [1e-6, 1e-20, 1e-40])
def test_quiet_sources_are_scaled_to_full_scale(tmp_path: Path, peak: float) -> None:
    song = decoded(write_pcm(tmp_path / "song.wav", noise(0.1, peak=peak), subtype="FLOAT"))
    assert np.max(np.abs(song.scaled)) == 1.0
    assert np.isfinite(song.scaled).all()


def test_silence_stays_silence(tmp_path: Path) -> None:
    song = decoded(write_pcm(tmp_path / "song.wav", np.zeros((2, RATE), np.float32)))
    assert song.mixture.peak == 0.0
    assert not song.scaled.any()


@pytest.mark.parametrize("frames", [1, 2, 4410])
def test_short_songs_keep_their_length(tmp_path: Path, frames: int) -> None:
    song = decoded(write_pcm(tmp_path / "song.wav", noise(0.1)[:, :frames]))
    assert song.mixture.frames == frames


@pytest.mark.parametrize(
    ("frames", "rate", "expected"), [(1, 48_000, 1), (5, 48_000, 5), (1, 192_000, 1), (3, 192_000, 1)]
)
def test_a_few_samples_at_any_rate_are_a_song(tmp_path: Path, frames: int, rate: int, expected: int) -> None:
    mixture = decoded(write_pcm(tmp_path / "song.wav", noise(0.1)[:, :frames], rate=rate)).mixture
    assert (mixture.frames, mixture.frames_at(rate)) == (expected, frames)


def test_samples_that_only_overflow_when_resampled_are_refused(tmp_path: Path) -> None:
    loud = np.where(noise(0.1) > 0, 3.4e38, -3.4e38).astype(np.float32)
    error = refusal(write_pcm(tmp_path / "song.wav", loud, rate=48_000, subtype="FLOAT"))
    assert (error.code, error.message) == (ErrorCode.AUDIO_CORRUPT, "the source has samples that are too large")


@pytest.mark.parametrize(
    ("subtype", "bits"), [("PCM_U8", 16), ("ULAW", 16), ("PCM_16", 16), ("PCM_24", 24), ("PCM_32", 24), ("FLOAT", 24)]
)
def test_depth_of_the_stems_is_that_of_the_source(tmp_path: Path, subtype: str, bits: int) -> None:
    assert decoded(write_pcm(tmp_path / "song.wav", noise(0.1), subtype=subtype)).mixture.bits == bits


@pytest.mark.parametrize(("container", "subtype", "bits"), [("FLAC", "PCM_16", 16), ("FLAC", "PCM_24", 24)])
def test_depth_of_lossless_codecs_is_kept(tmp_path: Path, container: str, subtype: str, bits: int) -> None:
    assert decoded(write_pcm(tmp_path / "song", noise(0.1), subtype=subtype, container=container)).mixture.bits == bits


@pytest.mark.parametrize(("codec", "container"), [("libmp3lame", "mp3"), ("aac", "mp4"), ("libopus", "ogg")])
@pytest.mark.parametrize(("peak", "bits"), [(0.5, 16), (0.02, 24)])
def test_lossy_sources_get_16_bits_unless_they_are_quiet(
    tmp_path: Path, codec: str, container: str, peak: float, bits: int
) -> None:
    source = write_av(tmp_path / "song", noise(0.5, rate=48_000, peak=peak), codec, container, rate=48_000)
    assert decoded(source).mixture.bits == bits


def test_same_source_gives_identical_bytes(tmp_path: Path) -> None:
    first, second = (
        decoded(write_av(tmp_path / name, noise(1.0), "libmp3lame", "mp3")).mixture.path for name in ("a", "b")
    )
    assert first.read_bytes() == second.read_bytes()
    assert soundfile.info(first).format == "RF64"
    assert b"PEAK" not in first.read_bytes()[:4096]  # a chunk with the time of day, which libsndfile can add


@pytest.mark.parametrize("container", ["mp4", "matroska", "mpegts"])
@pytest.mark.parametrize("video_seconds", [0.4, 4.0])
def test_audio_of_a_video_is_decoded(tmp_path: Path, container: str, video_seconds: float) -> None:
    """The video stream may be shorter or longer than the audio."""
    source = write_av(tmp_path / "film", noise(2.0), "aac", container, video_seconds=video_seconds)
    song = decoded(source)
    assert abs(song.mixture.duration - 2.0) < 0.05
    assert song.mixture.notes == ()


@pytest.mark.parametrize("container", ["mp4", "matroska"])
def test_variable_frame_rate_does_not_change_the_audio(tmp_path: Path, container: str) -> None:
    films = (
        decoded(write_av(tmp_path / name, noise(2.0), "aac", container, video_seconds=2.0, irregular=name == "varying"))
        for name in ("even", "varying")
    )
    even, varying = (film.signal for film in films)
    np.testing.assert_array_equal(varying, even)
    assert lag(noise(2.0), varying) == 0


def test_video_without_an_audio_duration_is_accepted(tmp_path: Path) -> None:
    """The duration of the container is that of the video stream."""
    source = write_av(tmp_path / "film", noise(2.0), "aac", "matroska", video_seconds=4.0)
    assert source.read_bytes().count(b"DURATION") == 2
    source.write_bytes(source.read_bytes().replace(b"DURATION", b"EXERTION"))
    assert abs(decoded(source).mixture.duration - 2.0) < 0.05


def test_first_of_several_tracks_is_used_with_a_note(tmp_path: Path) -> None:
    source = write_av(tmp_path / "film.mka", noise(1.0), "flac", "matroska", tracks=3)
    assert decoded(source).mixture.notes == ("the first of 3 audio tracks was taken",)


def test_joined_parts_of_different_formats_are_decoded(tmp_path: Path) -> None:
    """Podcasts, for example, are joined from files: here mono, then stereo at another sample rate."""
    mono, stereo = noise(2.0, channels=1, seed=1), noise(2.0, rate=48_000, seed=2)
    parts = [
        write_av(tmp_path / "mono", mono, "libmp3lame", "mp3", layout="mono", options={"write_xing": "0"}),
        write_av(tmp_path / "stereo", stereo, "libmp3lame", "mp3", rate=48_000, options={"write_xing": "0"}),
    ]
    source = tmp_path / "song.mp3"
    source.write_bytes(b"".join(part.read_bytes() for part in parts))

    song = decoded(source)

    assert abs(song.mixture.duration - 4.0) < 0.2
    halves = song.signal[:, :RATE], song.signal[:, 3 * RATE :]
    np.testing.assert_array_equal(halves[0][0], halves[0][1])
    assert np.mean(np.prod(halves[1], axis=0)) < 0.5 * np.mean(halves[1] ** 2)
    truth = _resampled(stereo, 48_000)
    delay = lag(truth, song.signal)
    error = song.signal[:, delay + RATE // 2 : delay + RATE] - truth[:, RATE // 2 : RATE]
    assert np.mean(error**2) < 0.1 * np.mean(truth**2)


@pytest.mark.parametrize("size", [0, 0x7FFFF000, 0x7FFFFFFF, 0xFFFFFFFF - 36, 0xFFFFFFFF])
def test_wav_from_a_pipe_with_a_placeholder_length_is_complete(tmp_path: Path, size: int) -> None:
    source = write_pcm(tmp_path / "song.wav", noise(1.0))
    content = bytearray(source.read_bytes())
    content[40:44] = size.to_bytes(4, "little")
    source.write_bytes(content)
    assert decoded(source).mixture.frames == RATE
