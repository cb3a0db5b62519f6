"""One run of the program curl: what it fetches, and what its exit status means.

The body comes over a socket that the watchdog can shut down; the head over a pipe of its own, because curl would print
trailers behind the body as if they belonged to it.
"""

from __future__ import annotations

import http.client
import io
import os
import re
import select
import shutil
import socket
import ssl
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from pipeline.download.http.watchdog import Watchdog

#: ``--disable`` has to be the first: no .curlrc.
_ARGUMENTS = ("--disable", "--silent", "--no-buffer", "--globoff", "--path-as-is", "--noproxy", "*", "--config", "-")
_MAX_HEAD = 256 * 1024
_END = re.compile(rb"\r?\n\r?\n")
_INTERIM = re.compile(rb"HTTP/[0-9.]+ 1[0-9]{2}\b")
#: How long a curl that has closed its output may take to end, s.
_PARTING = 5.0

#: Exit codes of curl(1), and the exceptions that the same faults have over HTTP/1.1. All others: not proper HTTP.
_FAULTS: Final[Mapping[int, Callable[[], BaseException]]] = {
    6: socket.gaierror,
    7: ConnectionRefusedError,
    18: lambda: http.client.IncompleteRead(b""),
    28: TimeoutError,
    35: ssl.SSLError,
    51: ssl.SSLCertVerificationError,
    52: lambda: http.client.RemoteDisconnected(""),
    55: ConnectionResetError,
    56: ConnectionResetError,
    60: ssl.SSLCertVerificationError,
}


class CurlProcess(io.RawIOBase):
    """The body, to be read after the head and closed, which ends the program. Reads raise as ``http.client``'s do."""

    def __init__(self, arguments: Sequence[str], config: str, watchdog: Watchdog | None) -> None:
        """Start curl with ``arguments`` and those in ``config``, which nobody else gets to see."""
        self._watchdog = watchdog
        self._socket, theirs = socket.socketpair()
        self._heads, heads = os.pipe()
        try:
            self._process = subprocess.Popen(
                [shutil.which("curl") or "curl", *_ARGUMENTS, *arguments, "--dump-header", f"/dev/fd/{heads}"],
                stdin=subprocess.PIPE,
                stdout=theirs.fileno(),
                stderr=subprocess.DEVNULL,
                pass_fds=[heads],
                env={},
                # Ctrl-C reaches every process of the group; what it means for a download is not curl's to decide.
                process_group=0,
            )
        except BaseException:
            super().close()
            self._socket.close()
            os.close(self._heads)
            raise
        finally:
            theirs.close()
            os.close(heads)
        if watchdog:
            watchdog.guard_socket(self._socket)
        assert self._process.stdin
        with suppress(BrokenPipeError), self._process.stdin as orders:
            orders.write(config.encode())

    def read_head(self) -> bytes:
        """Status line and headers of the answer."""
        heads = b""
        while (head := _final(heads)) is None:
            if len(heads) > _MAX_HEAD:
                raise http.client.HTTPException("the head of the answer is too long")
            piece = self._next_of_head()
            if not piece:
                self._raise_fault()
                raise http.client.RemoteDisconnected("no answer")
            heads += piece
        return head

    def _next_of_head(self) -> bytes:
        both = select.poll()
        both.register(self._heads, select.POLLIN)
        both.register(self._socket, select.POLLIN)
        ready = {descriptor for descriptor, _ in both.poll()}
        # The body alone: it has ended without a head, by itself or by the watchdog.
        return os.read(self._heads, 65536) if self._heads in ready else b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = self._socket.recv_into(buffer)
        if count == 0:
            self._raise_fault()
        return count

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._socket.close()
            os.close(self._heads)
            self._process.kill()
            self._process.wait()

    def _raise_fault(self) -> None:
        if self._watchdog:
            self._watchdog.raise_if_fired()
        try:
            status = self._process.wait(_PARTING)
        except subprocess.TimeoutExpired:
            raise ConnectionResetError("the socket was shut down") from None
        if status:
            raise _FAULTS.get(status, http.client.HTTPException)()


def _final(heads: bytes) -> bytes | None:
    """The head of the answer itself, if it has come whole. Trailers may have come after it."""
    while end := _END.search(heads):
        if not _INTERIM.match(heads):
            return heads[: end.end()]
        heads = heads[end.end() :]
    return None
