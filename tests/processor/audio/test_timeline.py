"""Time stamps place the sound: delays, gaps and overlaps, within limits."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from pipeline.errors import ErrorCode
from processor.audio.timeline import Clock, Timeline
from tests.processor.corpus.edits import remuxed
from tests.processor.source_files import RATE, Signal, decoded, lag, noise, refusal, write_av

SONG = noise(3.0)
CODECS = {"webm": "libopus", "mpegts": "mp2", "matroska": "aac", "mp4": "aac", "flv": "aac", "ogg": "libopus"}


def written(path: Path, container: str, signal: Signal = SONG, *, live: bool = False) -> Path:
    """Write ``signal``, given at 44.1 kHz, in the container's codec. ``live``: without a declared length."""
    options = {"live": "1"} if live else {}
    codec = CODECS[container]
    if codec != "libopus":
        return write_av(path, signal, codec, container, options=options)
    return write_av(path, noise(signal.shape[1] / RATE, rate=48_000), codec, container, rate=48_000, options=options)


def changed(source: Path, container: str, shift: Callable[[float], float | None], *, live: bool = False) -> Path:
    """Write the packets of ``source`` again with other time stamps, see ``remuxed``."""
    source.write_bytes(remuxed(source.read_bytes(), container, shift, {"live": "1"} if live else {}))
    return source


@pytest.mark.parametrize(("container", "live"), [("webm", True), *((name, False) for name in CODECS)])
def test_gap_becomes_silence_with_a_note(tmp_path: Path, container: str, live: bool) -> None:
    plain = decoded(written(tmp_path / "plain", container))
    source = written(tmp_path / "song", container, live=live)
    changed(source, container, lambda t: None if 1 <= t < 2 else 0, live=live)

    song = decoded(source)

    assert song.mixture.notes == ("silence was filled in where time stamps leave a gap: 1.0 s",)
    assert abs(song.mixture.frames - plain.mixture.frames) <= RATE // 1000
    after = slice(int(2.2 * RATE), int(2.8 * RATE))
    assert abs(lag(plain.signal[:, after], song.signal[:, after])) <= RATE // 1000
    assert not song.signal[:, int(1.2 * RATE) : int(1.8 * RATE)].any()


@pytest.mark.parametrize("delay", [0.5, 3.0])
@pytest.mark.parametrize("video", [0.0, 4.0])
@pytest.mark.parametrize("container", ["mp4", "matroska"])
def test_sound_that_begins_later_has_silence_before_it(
    tmp_path: Path, container: str, video: float, delay: float
) -> None:
    path = tmp_path / "song"
    write_av(path, SONG, "aac", container, video_seconds=video)
    if video:
        path.write_bytes(_later_audio(path, container, delay))
    else:
        changed(path, container, lambda stamp: delay)
    song = decoded(path)
    assert song.mixture.notes[0].startswith("the sound begins after the start of the source: silence before it: ")
    assert lag(SONG, song.signal) == pytest.approx(delay * RATE, abs=RATE // 1000)


def _later_audio(path: Path, container: str, delay: float) -> bytes:
    """Return the film with its sound ``delay`` s later."""
    result = io.BytesIO()
    with av.open(str(path)) as source, av.open(result, "w", format=container) as target:
        streams = {stream.index: target.add_stream_from_template(stream) for stream in source.streams}
        for packet in source.demux():
            if packet.dts is None or packet.pts is None:
                continue
            later = round(delay / packet.time_base) if packet.stream.type == "audio" else 0
            packet.pts, packet.dts = packet.pts + later, packet.dts + later
            packet.stream = streams[packet.stream.index]
            target.mux(packet)
    return result.getvalue()


@pytest.mark.parametrize("container", ["webm", "mpegts", "flv"])
def test_stamps_that_jump_by_hours_do_not_become_hours(tmp_path: Path, container: str) -> None:
    plain = decoded(written(tmp_path / "plain", container)).mixture.frames
    broken = written(tmp_path / "song", container)
    changed(broken, container, lambda t: 7200 if t > 1.5 else 0, live=container == "webm")
    if container == "flv":  # its header declares the length with the jump
        assert refusal(broken).code is ErrorCode.AUDIO_TOO_LONG
    else:
        assert decoded(broken).mixture.frames == plain


def test_overlap_is_left_out_with_a_note(tmp_path: Path) -> None:
    """Two parts of a stream, of which the second begins 0.5 s before the end of the first."""
    whole = written(tmp_path / "whole", "mpegts")
    content = whole.read_bytes()
    parts = [
        remuxed(content, "mpegts", lambda t: 0 if t < 1.9 else None),
        remuxed(content, "mpegts", lambda t: 0 if t >= 1.4 else None),
    ]
    (tmp_path / "song").write_bytes(b"".join(parts))
    song, plain = decoded(tmp_path / "song"), decoded(whole)
    assert song.mixture.notes == ("overlapping parts of the source were left out: 0.5 s",)
    assert song.mixture.frames == plain.mixture.frames
    assert lag(plain.signal[:, 2 * RATE :], song.signal[:, 2 * RATE :]) == 0


def test_joined_streams_with_the_same_stamps_follow_each_other(tmp_path: Path) -> None:
    content = written(tmp_path / "part", "mpegts").read_bytes()
    (tmp_path / "song").write_bytes(content * 2)
    song = decoded(tmp_path / "song")
    assert abs(song.mixture.duration - 6.0) < 0.1
    assert song.mixture.notes == ()


# --- the rules, with frames of 20 ms ---

FRAME = 0.02


def placed(stamps: list[float], clock: Clock) -> tuple[list[float], Timeline]:
    """Return the offset of each frame, s, and the timeline."""
    timeline = Timeline(clock)
    offsets = []
    for stamp in stamps:
        offset = timeline.place(stamp, FRAME)
        timeline.position += max(offset + FRAME, 0.0)
        offsets.append(round(offset, 6))
    return offsets, timeline


def clock(origin: float | None = None, end: float | None = None) -> Clock:
    return Clock(origin, end, counts_samples=False, gaps_are_damage=False)


def test_jitter_changes_nothing() -> None:
    rng = np.random.default_rng(1)
    stamps = [number * FRAME + rng.uniform(-0.007, 0.007) for number in range(500)]
    assert placed(stamps, clock(0.0))[0] == [0.0] * 500


def test_slow_drift_is_corrected_at_a_tenth_of_a_second() -> None:
    offsets, timeline = placed([number * FRAME * 1.001 for number in range(10_000)], clock(0.0))
    assert [offset for offset in offsets if offset] == [0.1]
    assert timeline.end == pytest.approx(200.2, abs=0.11)


def test_one_missing_frame_is_a_gap() -> None:
    offsets, timeline = placed([0.0, 0.02, 0.06, 0.08], clock())
    assert offsets == [0.0, 0.0, 0.02, 0.0]
    assert timeline.gaps == pytest.approx(0.02)


@pytest.mark.parametrize(("end", "filled"), [(None, 0.0), (1000.0, 600.0), (10.0, 0.0)])
def test_long_gap_is_believed_if_the_declared_length_includes_it(end: float | None, filled: float) -> None:
    assert placed([0.0, 600.02, 600.04], clock(0.0, end))[0] == [0.0, filled, 0.0]


def test_one_damaged_stamp_moves_nothing_behind_it() -> None:
    offsets, timeline = placed([0.0, 0.02, 5000.0, 0.06, 0.08], clock(0.0, 0.1))
    assert offsets == [0.0] * 5
    assert timeline.position == pytest.approx(0.1)


def test_lost_frames_are_damage_and_gaps_are_not() -> None:
    timeline = Timeline(clock(0.0))
    timeline.place(0.0, FRAME)
    timeline.position += FRAME
    timeline.lose(FRAME)
    assert timeline.place(0.04, FRAME) == pytest.approx(FRAME)
    assert timeline.lost == pytest.approx(FRAME)
    assert timeline.gaps == 0
