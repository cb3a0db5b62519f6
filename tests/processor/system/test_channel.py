"""Messages between two processes: what arrives is what was sent, and nothing but data can arrive."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
from pydantic import FiniteFloat, NonNegativeInt

from config import DownloadSettings, LogSettings, ModelSettings
from pipeline.errors import ErrorCode, ErrorKind
from pipeline.model_choice import Ensemble
from processor.ipc import COMMANDS, REPORTS, ChildSettings, Command, Done, Failed, Progress, Report, Separate, Stem
from processor.system.channel import Channel, ProtocolError, Schema


@dataclass(frozen=True, slots=True)
class Parcel:
    path: Path
    code: ErrorCode
    weight: FiniteFloat
    parts: tuple[NonNegativeInt, ...]
    note: str | None = None


@dataclass(frozen=True, slots=True)
class Letter:
    text: str


PARCELS = Schema[Parcel]("parcels", 3, Parcel)
PARCEL = Parcel(Path("/tmp/a b"), ErrorCode.INTERNAL, 0.1, (1, 2), "ü")


@pytest.fixture
def ends() -> Iterator[tuple[Channel[Parcel, Parcel], Connection]]:
    """Yield a channel and the raw other end."""
    ours, theirs = Pipe()
    with Channel(ours, sends=PARCELS, receives=PARCELS, max_bytes=1000) as channel, theirs:
        yield channel, theirs


def test_message_arrives_as_it_was_sent(ends: tuple[Channel[Parcel, Parcel], Connection]) -> None:
    channel, theirs = ends
    with Channel(Connection(os.dup(theirs.fileno())), sends=PARCELS, receives=PARCELS) as other:
        for message in (PARCEL, Parcel(Path("x"), ErrorCode.INTERNAL, -0.0, ())):
            other.send(message)
            assert channel.receive() == message


@pytest.mark.parametrize(
    "message",
    [
        ChildSettings(
            ModelSettings(model_dir=Path("m"), pool_bytes=2**40, mirrors=("https://a.example",), offline=True),
            Path("/scratch"),
            DownloadSettings(proxy="socks5h://user:pass@proxy:1080", allow_networks=("10.0.0.0/8",)),  # type: ignore[arg-type]
            LogSettings(level="DEBUG"),
            children_on_device=2,
            threads=3,
        ),
        Separate(1, Path("/w/mixture.wav"), 0.5, 9, Path("/w"), Ensemble(ensemble=("a.onnx", "b.ckpt")), ("vocals",)),
        Separate(2, Path("/w/mixture.wav"), 0.5, 9, Path("/w"), "a.onnx", None, "an id"),
    ],
)
def test_commands_to_a_child_keep_their_values(message: Command) -> None:
    """The password of the proxy too, which the child needs for downloads."""
    assert COMMANDS.decode(COMMANDS.encode(message)) == message


def test_reports_of_a_child_keep_their_values() -> None:
    stem = Stem("人声", Path("/w/1.wav"), "ab", 1, 2, 44_100, 2, 0.5)
    reports: list[Report] = [
        Progress(1, 0.25),
        Done(1, (stem, stem), "m", "cpu", ("batch_1",)),
        Failed(1, ErrorKind.PERMANENT, ErrorCode.STEM_UNKNOWN, "no such stem"),
    ]
    assert [REPORTS.decode(REPORTS.encode(report)) for report in reports] == reports


class Explosive:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_pickle_is_not_loaded(ends: tuple[Channel[Parcel, Parcel], Connection], tmp_path: Path) -> None:
    channel, theirs = ends
    theirs.send(Explosive(tmp_path / "harm"))
    with pytest.raises(ProtocolError, match="a message of parcels/3 was expected"):
        channel.receive()
    assert not (tmp_path / "harm").exists()
    assert pickle.dumps(Explosive(tmp_path))  # it is a pickle


VALID = '"path": "/", "code": "internal", "parts": []'


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (b"", "expected"),
        (b"\xff\xfe Parcel\n{}", "expected"),
        (b"parcels/2 Parcel\n{}", "parcels/3 was expected, not of 'parcels/2'"),
        (b"parcels/3 Letter\n{}", "parcels/3 has no message 'Letter'"),
        (b"parcels/3 Parcel\n", "no JSON"),
        (b"parcels/3 Parcel\n\xff", "no JSON"),
        (b"parcels/3 Parcel\n" + b"[" * 900, "not valid"),
        (f'parcels/3 Parcel\n{{{VALID}, "weight": NaN}}'.encode(), "no JSON"),
        (f'parcels/3 Parcel\n{{{VALID}, "weight": 1e999}}'.encode(), "'weight': 'finite_number'"),
        (f'parcels/3 Parcel\n{{{VALID}, "weight": "secret"}}'.encode(), "'weight': 'float_parsing'"),
        (f"parcels/3 Parcel\n{{{VALID}}}".encode(), "'weight': 'missing'"),
        (b"x" * 1001, "longer than 1000 bytes"),
    ],
)
def test_anything_else_is_a_protocol_error(
    ends: tuple[Channel[Parcel, Parcel], Connection], frame: bytes, reason: str
) -> None:
    channel, theirs = ends
    theirs.send_bytes(frame)
    with pytest.raises(ProtocolError, match=reason) as caught:
        channel.receive()
    assert "secret" not in str(caught.value)


def test_number_that_is_not_finite_is_not_sent() -> None:
    with pytest.raises(ValueError, match="JSON"):
        PARCELS.encode(Parcel(Path("/"), ErrorCode.INTERNAL, float("nan"), ()))


def test_end_of_the_connection_is_an_eof(ends: tuple[Channel[Parcel, Parcel], Connection]) -> None:
    channel, theirs = ends
    assert not channel.poll(0)
    theirs.close()
    assert channel.poll(0)
    with pytest.raises(EOFError):
        channel.receive()
