"""Files and addresses that a source names are never opened."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from av.container import InputContainer

from pipeline.errors import ErrorCode, PermanentError
from processor.audio import container
from tests.processor.source_files import RATE, decoded, noise, refusal, write_av, write_pcm

CANARY = "canary.wav"
PLAYLISTS = {
    "m3u8": "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{where}\n#EXT-X-ENDLIST\n",
    "m3u8 with a key": '#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXT-X-KEY:METHOD=AES-128,URI="{where}"\n#EXTINF:9,\n'
    "{where}\n#EXT-X-ENDLIST\n",
    "ffconcat": "ffconcat version 1.0\nfile '{where}'\n",
    "pls": "[playlist]\nNumberOfEntries=1\nFile1={where}\n",
    "xspf": '<?xml version="1.0"?><playlist version="1" xmlns="http://xspf.org/ns/0/"><trackList><track><location>'
    "{where}</location></track></trackList></playlist>",
    "asx": '<asx version="3.0"><entry><ref href="{where}"/></entry></asx>',
    "mpd": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
    'mediaPresentationDuration="PT9S"><Period><AdaptationSet mimeType="audio/mp4"><Representation id="1" '
    'bandwidth="1"><BaseURL>{where}</BaseURL></Representation></AdaptationSet></Period></MPD>',
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio {port} RTP/AVP 0\n",
    "rtsp": "RTSPtext\nrtsp://127.0.0.1:{port}/song\n",
}


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """Yield a server, and check that it received no connection."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()


def written(folder: Path, kind: str, where: str, port: int) -> Path:
    write_pcm(folder / CANARY, noise(1.0))
    source = folder / "source"
    source.write_text(PLAYLISTS[kind].format(where=where, port=port))
    return source


@pytest.mark.parametrize("kind", PLAYLISTS)
@pytest.mark.parametrize(
    "where", [CANARY, "{folder}/" + CANARY, "file:///etc/passwd", "/etc/passwd", "http://127.0.0.1:{port}/song.ts"]
)
def test_playlist_is_not_opened(tmp_path: Path, listener: socket.socket, kind: str, where: str) -> None:
    port = listener.getsockname()[1]
    source = written(tmp_path, kind, where.format(folder=tmp_path, port=port), port)
    with pytest.raises(PermanentError) as caught:
        decoded(source)
    assert caught.value.code is ErrorCode.NOT_AUDIO


def test_ffmpeg_without_the_allowlist_opens_playlists(tmp_path: Path) -> None:
    """Shows that the refusals above are necessary."""
    source = written(tmp_path, "ffconcat", CANARY, 0)
    with source.open("rb") as file, av.open(file, mode="r") as container:
        assert next(container.decode(audio=0)).samples > 0


# --- the references of QuickTime ---


def with_reference(source: Path, name: str) -> Path:
    """Make a QuickTime file refer to the file ``name`` for its samples, with an alias like the Finder's."""
    content = source.read_bytes()
    path = name.encode() + bytes(len(name) % 2)
    short = bytes((len(name),)) + name.encode().ljust(63, b"\0")
    levels, nothing = b"\0\x01\0\x01", bytes(16)
    record = bytes(50) + short + nothing + levels + nothing + b"\0\2" + number(len(path), 2) + path + b"\xff\xff\0\0"
    alias = number(12 + len(record)) + b"alis" + bytes(4) + record
    start = content.index(b"dref")
    end = start - 4 + int.from_bytes(content[start - 4 : start], "big")
    changed = bytearray(content[: start + 4] + bytes(4) + number(1) + alias + content[end:])
    for box in (b"moov", b"trak", b"mdia", b"minf", b"dinf", b"dref"):
        place = changed.index(box) - 4
        size = int.from_bytes(changed[place : place + 4], "big")
        changed[place : place + 4] = number(size + len(changed) - len(content))
    source.write_bytes(changed)
    return source


def number(value: int, size: int = 4) -> bytes:
    return value.to_bytes(size, "big")


@pytest.fixture
def reference(tmp_path: Path) -> Path:
    """Return a silent QuickTime file that refers to one with sound."""
    write_av(tmp_path / "canary.mov", noise(1.0), "pcm_s16be", "mov")
    silent = write_av(tmp_path / "source", np.zeros((2, RATE), np.float32), "pcm_s16be", "mov")
    return with_reference(silent, "canary.mov")


def frames(container: InputContainer) -> int:
    return sum(int(np.count_nonzero(frame.to_ndarray())) for frame in container.decode(audio=0))


def test_external_quicktime_reference_is_not_opened(reference: Path) -> None:
    assert refusal(reference).code is ErrorCode.AUDIO_EMPTY


def test_ffmpeg_with_enable_drefs_opens_the_reference(reference: Path) -> None:
    with reference.open("rb") as file, av.open(file, mode="r", container_options={"enable_drefs": "1"}) as container:
        assert frames(container) > RATE


def test_every_further_file_is_refused(reference: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A later version of ffmpeg may follow references by default."""
    monkeypatch.setitem(container._OPTIONS, "enable_drefs", "1")
    assert refusal(reference).code is ErrorCode.SOURCE_IS_PLAYLIST
