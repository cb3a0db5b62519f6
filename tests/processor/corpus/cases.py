"""The files of the corpus: how each is made, and what it must decode to."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from tests.processor.corpus import edits

#: The length of the song, s: not a multiple of any codec's frame.
SECONDS = 1.3171
#: Signal-to-noise ratios that each kind of codec reaches with the corpus' noise, dB.
LOSSLESS, SMALL, LOSSY = 80.0, 30.0, 8.0


@dataclass(frozen=True, slots=True)
class Case:
    """One file of the corpus."""

    name: str
    """Container, codec and variant."""
    arguments: str
    """The ``ffmpeg`` command's options for the file."""
    rate: int = 44_100
    channels: int = 2
    snr: float = LOSSLESS
    """The least signal-to-noise ratio against the song, dB."""
    delay: int = 0
    """Sound before the song that nothing in the file distinguishes from it, samples."""
    extra: int = 0
    """The difference of the length, samples."""
    edit: Callable[[bytes], bytes] | None = None
    """The change of the file's content."""
    repeats: int = 1
    """How many times the song is in the file."""
    silence: float = 0.0
    """Silence in the place of sound, or before the song, s; about."""
    leading: float = 0.0
    """Silence before the song, s."""
    refused: bool = False
    """The file is refused as cut off or damaged."""
    as_ffmpeg: bool = True
    """The ``ffmpeg`` command decodes the same samples."""


def cases() -> list[Case]:
    """Return all cases, in the order of the table."""
    plain = [*_pcm(), *_lossless(), *_lossy(), *_in_containers()]
    return [*plain, *_tagged(plain), *_padded(plain), *_joined(plain), *_damaged(plain)]


def _pcm() -> Iterator[Case]:
    codecs = {
        "wav": "pcm_u8 pcm_s16le pcm_s24le pcm_s32le pcm_f32le pcm_f64le pcm_alaw pcm_mulaw",
        "w64": "pcm_s16le pcm_s24le pcm_f32le",
        "aiff": "pcm_s16be pcm_s24be pcm_s32be pcm_f32be pcm_f64be pcm_alaw pcm_mulaw",
        "caf": "pcm_s16be pcm_s24be pcm_s32le pcm_f32le pcm_mulaw",
        "au": "pcm_s16be pcm_s24be pcm_s32be pcm_f32be pcm_mulaw",
        "mov": "pcm_s16le pcm_s24be pcm_f32le",
        "matroska": "pcm_s16le pcm_s24le pcm_f32le",
        "avi": "pcm_s16le pcm_u8",
    }
    for container, names in codecs.items():
        for codec in names.split():
            snr = SMALL if codec.endswith(("u8", "law")) else LOSSLESS
            yield Case(f"{container} {codec}", f"-c:a {codec} -f {container}", snr=snr)
    for rate, channels in ((8000, 1), (22_050, 2), (48_000, 2), (96_000, 2), (48_000, 6), (44_100, 1)):
        yield Case(f"wav {rate} Hz {channels} channels", "-c:a pcm_s24le -f wav", rate=rate, channels=channels)
    yield Case("rf64", "-c:a pcm_s16le -rf64 always -f wav")
    for codec in ("adpcm_ima_wav", "adpcm_ms", "adpcm_swf"):
        yield Case(f"wav {codec}", f"-c:a {codec} -f wav", snr=LOSSY, as_ffmpeg=False)
    yield Case("wav adpcm_ima_wav mono", "-c:a adpcm_ima_wav -f wav", channels=1, snr=LOSSY, as_ffmpeg=False)
    yield Case("mov adpcm_ima_qt", "-c:a adpcm_ima_qt -f mov", snr=LOSSY, as_ffmpeg=False)


def _lossless() -> Iterator[Case]:
    for name, arguments in {
        "flac": "-c:a flac -f flac",
        "flac 24 bits": "-c:a flac -sample_fmt s32 -f flac",
        "flac small blocks": "-c:a flac -frame_size 256 -f flac",
        "flac large blocks": "-c:a flac -frame_size 65535 -f flac",
        "flac without compression": "-c:a flac -compression_level 0 -f flac",
        "wavpack": "-c:a wavpack -f wv",
        "wavpack float": "-c:a wavpack -sample_fmt fltp -f wv",
        "tta": "-c:a tta -f tta",
        "tta 24 bits": "-c:a tta -sample_fmt s32 -f tta",
        "ogg flac": "-c:a flac -f ogg",
        "m4a alac": "-c:a alac -f ipod",
        "mov alac": "-c:a alac -f mov",
        "caf alac": "-c:a alac -f caf",
        "mp4 flac": "-c:a flac -f mp4",
        "matroska flac": "-c:a flac -f matroska",
        "matroska alac": "-c:a alac -f matroska",
        "matroska wavpack": "-c:a wavpack -f matroska",
    }.items():
        yield Case(name, arguments)
    for rate, channels in ((8000, 1), (48_000, 2), (96_000, 2), (48_000, 6), (44_100, 1)):
        for codec in ("flac", "wavpack", "tta"):
            container = "wv" if codec == "wavpack" else codec
            name = f"{codec} {rate} Hz {channels} channels"
            yield Case(name, f"-c:a {codec} -f {container}", rate=rate, channels=channels)


def _lossy() -> Iterator[Case]:
    for rate, channels in ((44_100, 2), (48_000, 2), (32_000, 1), (22_050, 2), (16_000, 1), (8000, 1)):
        snr = LOSSY if rate > 8000 else 3.0
        yield Case(f"mp3 {rate} Hz {channels} channels", "-c:a libmp3lame -f mp3", rate, channels, snr)
    yield Case("mp3 variable bit rate", "-c:a libmp3lame -q:a 4 -f mp3", snr=LOSSY)
    yield Case("mp3 without header", "-c:a libmp3lame -write_xing 0 -f mp3", snr=LOSSY, delay=1105, extra=1820)
    yield Case("ogg vorbis", "-c:a libvorbis -f ogg", snr=LOSSY)
    yield Case("ogg vorbis mono", "-c:a libvorbis -f ogg", 22_050, 1, LOSSY)
    yield Case("ogg vorbis 5.1", "-c:a libvorbis -f ogg", 48_000, 6, LOSSY)
    for channels in (1, 2, 6):
        yield Case(f"ogg opus {channels} channels", "-c:a libopus -f ogg", 48_000, channels, LOSSY)
    yield Case("adts aac", "-c:a aac -f adts", snr=LOSSY, delay=1024, extra=1308)
    yield Case("adts aac mono", "-c:a aac -f adts", 48_000, 1, LOSSY, 1024, 1291)
    yield Case("adts aac 5.1", "-c:a aac -f adts", 48_000, 6, LOSSY, 1024, 1291)
    for codec in ("ac3", "eac3"):
        yield Case(codec, f"-c:a {codec} -f {codec}", snr=LOSSY, delay=256, extra=284)
        # The decoder of these codecs mixes down itself, with other weights, if the ``ffmpeg`` command asks for stereo.
        yield Case(f"{codec} 5.1", f"-c:a {codec} -f {codec}", 48_000, 6, LOSSY, 256, 1291, as_ffmpeg=False)
    yield Case("amr", "-c:a libopencore_amrnb -f amr", 8000, 1, 0.0, 40, 183)
    for codec in ("wmav1", "wmav2"):
        yield Case(f"asf {codec}", f"-c:a {codec} -f asf", snr=LOSSY, extra=1308, as_ffmpeg=False)


#: The delay of an encoder and the padding after the song, samples, where a container declares neither; and the rest
#: where it declares them in part or in ticks of 1 ms.
_UNDECLARED = {
    "aac": (1024, 1308),
    "libmp3lame": (1105, 1820),
    "mp2": (481, 668),
    "ac3": (256, 284),
    "eac3": (256, 284),
    "libopus": (312, 1099),
    "wav libmp3lame": (1105, 1105),
    "matroska aac": (0, 284),
    "mp4 ac3": (0, 28),
    "mp4 eac3": (0, 28),
}


def _in_containers() -> Iterator[Case]:
    codecs = {
        "mp4": "aac alac libopus libmp3lame ac3 eac3",
        "ipod": "aac",
        "mov": "aac",
        "matroska": "aac libopus libvorbis libmp3lame ac3 eac3 mp2",
        "webm": "libopus libvorbis",
        "mpegts": "aac libopus libmp3lame mp2 ac3 eac3",
        "mpeg": "mp2 ac3",
        "flv": "aac libmp3lame",
        "avi": "libmp3lame mp2 ac3",
        "asf": "libmp3lame pcm_s16le",
        "wav": "libmp3lame",
        "mp2": "mp2",
    }
    for container, names in codecs.items():
        for codec in names.split():
            rate = 48_000 if codec == "libopus" else 44_100
            snr = LOSSLESS if codec in ("alac", "pcm_s16le") else LOSSY
            delay, extra = _UNDECLARED.get(f"{container} {codec}", (0, 0))
            if container in ("mpegts", "mpeg", "flv", "avi", "asf", "mp2"):
                delay, extra = _UNDECLARED.get(codec, (0, 0))
            name = f"{container} {codec.removeprefix('lib')}"
            as_ffmpeg = name not in (
                "mp4 opus",
                "mp4 ac3",
                "mp4 eac3",
                "wav mp3lame",
            )  # the command leaves the padding in
            arguments = f"-c:a {codec} -f {container}"
            yield Case(name, arguments, rate, 2, snr, delay, extra, as_ffmpeg=as_ffmpeg)
    fragments = "-movflags frag_keyframe+empty_moov+delay_moov+default_base_moof -frag_duration 500000"
    yield Case("mp4 aac for streaming", "-c:a aac -movflags +faststart -f mp4", snr=LOSSY)
    yield Case("mp4 aac in fragments", f"-c:a aac {fragments} -f mp4", snr=LOSSY, as_ffmpeg=False)
    yield Case("mp4 aac 5.1", "-c:a aac -f mp4", 48_000, 6, LOSSY)
    yield Case("mp4 aac mono 22.05 kHz", "-c:a aac -f mp4", 22_050, 1, LOSSY)
    yield Case("webm opus without length", "-c:a libopus -live 1 -f webm", 48_000, snr=LOSSY)


def _find(plain: list[Case], names: str) -> Iterator[Case]:
    by_name = {case.name: case for case in plain}
    for name in names.split(", "):
        yield by_name[name]


#: An ID3v2 tag, an APE tag and an ID3v1 tag.
ID3V2 = b"ID3\x04\0\0\0\0\0\x0a" + bytes(10)
APE = b"".join(
    b"APETAGEX" + np.array([2000, 52, 1, flags], "<u4").tobytes() + bytes(8) + rest
    for flags, rest in ((0xA0000000, bytes(20)), (0x80000000, b""))
)
ID3V1 = b"TAG" + bytes(125)


def _tagged(plain: list[Case]) -> Iterator[Case]:
    every = (
        "wav pcm_s16le, rf64, w64 pcm_s16le, aiff pcm_s16be, caf pcm_s16be, au pcm_s16be, flac, wavpack, tta, "
        "mp3 44100 Hz 2 channels, adts aac, ac3, ogg vorbis, m4a alac, matroska flac, asf wmav2, amr, flv aac"
    )
    for case in _find(plain, every):
        yield replace(case, name=f"{case.name}, ID3v2 tag in front", edit=lambda file: ID3V2 + file, as_ffmpeg=False)
    for case in _find(plain, "wav pcm_s16le, flac, wavpack, mp3 44100 Hz 2 channels"):
        yield replace(case, name=f"{case.name}, APE tag in front", edit=lambda file: APE + file, as_ffmpeg=False)
    for case in _find(plain, "wav pcm_s16le, au pcm_s16be, flac, wavpack, tta, mp3 44100 Hz 2 channels, ac3, adts aac"):
        yield replace(case, name=f"{case.name}, tags at the end", edit=lambda file: file + APE + ID3V1, as_ffmpeg=False)


def _padded(plain: list[Case]) -> Iterator[Case]:
    for case in _find(plain, "wav pcm_s16le, flac, wavpack, tta, ac3, adts aac, ogg vorbis, mp2 mp2"):
        yield replace(
            case, name=f"{case.name}, zeros at the end", edit=lambda file: file + bytes(5000), as_ffmpeg=False
        )


def _joined(plain: list[Case]) -> Iterator[Case]:
    for case in _find(plain, "ogg vorbis, ogg vorbis mono, ogg flac, ogg opus 2 channels, flac, flac 24 bits"):
        yield replace(case, name=f"{case.name}, joined", edit=lambda file: file * 2, repeats=2, as_ffmpeg=False)


def _damaged(plain: list[Case]) -> Iterator[Case]:
    lost = {
        "flac small blocks": 256 / 44_100,
        "flac": 4608 / 44_100,
        "wavpack": 0.1,
        "ac3": 0.07,
        "eac3": 0.07,
        "mpegts ac3": 0.035,
        "matroska flac": 4608 / 44_100,
        "adts aac": 0.023,
        "mpegts aac": 0.023,
    }
    for case in _find(plain, ", ".join(lost)):
        seconds = lost[case.name]
        is_checked = case.name not in ("adts aac", "mpegts aac")
        edit = edits.bit_flipped if is_checked else edits.overwritten
        snr = case.snr if case.snr == LOSSLESS else 5.0
        yield replace(case, name=f"{case.name}, damaged", edit=edit, silence=seconds, snr=snr, as_ffmpeg=False)
    for case in _find(
        plain, "wav pcm_s16le, aiff pcm_s16be, w64 pcm_s16le, caf pcm_s16be, au pcm_s16be, flac, wavpack"
    ):
        yield replace(case, name=f"{case.name}, cut off", edit=edits.cut, refused=True)
    for case in _find(plain, "tta, mp3 44100 Hz 2 channels, mp4 aac for streaming, matroska aac, flv aac, asf wmav2"):
        yield replace(case, name=f"{case.name}, cut off", edit=edits.cut, refused=True)
    for name, container in (
        ("matroska aac", "matroska"),
        ("webm opus", "webm"),
        ("webm opus without length", "webm"),
        ("mp4 aac", "mp4"),
        ("mpegts aac", "mpegts"),
        ("mpegts mp2", "mpegts"),
        ("flv aac", "flv"),
        ("asf wmav2", "asf"),
        ("mpeg mp2", "mpeg"),
    ):
        case = next(_find(plain, name))
        gap = functools.partial(edits.with_gap, container=container, start=0.4, seconds=0.3)
        yield replace(case, name=f"{name}, gap", edit=gap, silence=0.3, snr=5.0, as_ffmpeg=False)
    # The delays are rounded to the ticks of the container's clock, of 1 ms.
    for name, container, rounding in (
        ("mp4 aac", "mp4", -34),
        ("mov aac", "mov", -34),
        ("matroska aac", "matroska", 0),
        ("webm opus", "webm", -24),
    ):
        case = next(_find(plain, name))
        late = functools.partial(edits.delayed, container=container, seconds=0.5)
        name = f"{name}, beginning at 0.5 s"
        extra = case.extra + rounding
        yield replace(case, name=name, edit=late, leading=0.5, delay=rounding, extra=extra, as_ffmpeg=False)
