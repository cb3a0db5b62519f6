"""Render songs, and check the stems that the service returns."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import requests
import soundfile

from demo.song import render_song

Samples = npt.NDArray[np.float64]

#: Largest error of the sum of the stems: each stem, and the song before, is rounded to 16 bits.
TOLERANCE = 3 / 2**15


@dataclass(frozen=True)
class Recording:
    """A song as a file."""

    samples: Samples
    """`(frames, channels)`."""
    sample_rate: int
    file: bytes
    """FLAC."""


def song(seconds: float) -> Recording:
    """Return the first `seconds` of the demo song."""
    whole = render_song(seconds=max(seconds, 1.0))
    return recording(whole.mixture.T[: round(seconds * whole.sample_rate)], whole.sample_rate)


def repeated(of: Recording, times: int) -> Recording:
    return recording(np.tile(of.samples, (times, 1)), of.sample_rate)


def silence(seconds: float) -> Recording:
    return recording(np.zeros((round(seconds * 44_100), 1)), 44_100)


def recording(samples: npt.ArrayLike, sample_rate: int, subtype: str = "PCM_16") -> Recording:
    file = io.BytesIO()
    soundfile.write(file, samples, sample_rate, subtype=subtype, format="FLAC")
    return Recording(*decoded(file.getvalue()), file.getvalue())


def decoded(file: bytes) -> tuple[Samples, int]:
    samples, sample_rate = soundfile.read(io.BytesIO(file), always_2d=True)
    return samples, sample_rate


def check_stems(body: dict[str, Any], of: Recording, *, names: tuple[str, ...] = ("instrumental", "vocals")) -> None:
    """Check that the stems match the webhook, have the length of the song, and sum to it."""
    assert tuple(sorted(stem["name"] for stem in body["stems"])) == names
    stems = {stem["name"]: fetched(stem) for stem in body["stems"]}
    for name, samples in stems.items():
        assert samples.shape == of.samples.shape, name
        assert body[name] == next(stem["url"] for stem in body["stems"] if stem["name"] == name)
    if names == ("instrumental", "vocals"):
        assert np.abs(stems["vocals"] + stems["instrumental"] - of.samples).max() <= TOLERANCE
        assert all(np.any(samples) for samples in stems.values())


def fetched(stem: dict[str, Any]) -> Samples:
    """Fetch a stem, check it against the webhook, and return its samples."""
    answer = requests.get(stem["url"], timeout=30)
    assert answer.status_code == requests.codes.ok, answer.text
    file = answer.content
    assert (hashlib.sha256(file).hexdigest(), len(file)) == (stem["sha256"], stem["bytes"])
    about = soundfile.info(io.BytesIO(file))
    assert (about.format.lower(), about.subtype) == (stem["format"], f"PCM_{stem['bits']}")
    assert (about.samplerate, about.channels, about.duration) == (
        stem["sample_rate"],
        stem["channels"],
        stem["duration"],
    )
    return decoded(file)[0]
