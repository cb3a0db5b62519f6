"""A source that names other files or addresses has none of them opened."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import av
import pytest

from pipeline.errors import ErrorCode, PermanentError
from tests.processor.audio import decoded, noise, write_pcm

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
    """A server that nobody should come to."""
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
def test_a_playlist_is_not_audio(tmp_path: Path, listener: socket.socket, kind: str, where: str) -> None:
    port = listener.getsockname()[1]
    source = written(tmp_path, kind, where.format(folder=tmp_path, port=port), port)
    with pytest.raises(PermanentError) as caught:
        decoded(source)
    assert caught.value.code is ErrorCode.NOT_AUDIO


def test_ffmpeg_would_otherwise_follow_them(tmp_path: Path) -> None:
    """What the refusals above are worth."""
    source = written(tmp_path, "ffconcat", CANARY, 0)
    with source.open("rb") as file, av.open(file, mode="r") as container:
        assert next(container.decode(audio=0)).samples > 0
