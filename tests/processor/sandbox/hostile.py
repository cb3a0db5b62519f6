"""``python -m tests.processor.sandbox.hostile FD``: the decoding server, with a decoder that its file has taken over.

The source has the name of a behaviour and its argument. What the behaviour returns, or the name of the system's error,
becomes the sentence of the refusal.
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from pipeline.errors import ErrorCode, PermanentError
from processor.audio import decode, probe
from processor.audio.decode import Mixture
from processor.audio.track import SampleFormat
from processor.sandbox import server

FORM = SampleFormat("wav", "pcm_s16le", 2, 44_100, 1.0)
#: asm/unistd.h of x86_64 and aarch64: calls for which Python has no function.
_PTRACE, _PROCESS_VM_READV = (101, 310) if os.uname().machine == "x86_64" else (117, 270)


def environment(_: str) -> str:
    return " ".join(sorted(os.environ))


def read(path: str) -> str:
    return f"read {len(Path(path).read_bytes())}"


def write(path: str) -> str:
    Path(path).write_bytes(b"x")
    return "written"


def delete(path: str) -> str:
    os.unlink(path)
    return "deleted"


def rename(path: str) -> str:
    os.rename(path, path + ".renamed")
    return "renamed"


def link(path: str) -> str:
    os.symlink("/etc/passwd", path)
    return "linked"


def permit(path: str) -> str:
    os.chmod(path, 0o777)
    return "permitted"


def connect(port: str) -> str:
    with socket.create_connection(("127.0.0.1", int(port)), timeout=5):
        return "connected"


def datagram(port: str) -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"x", ("127.0.0.1", int(port)))
    return "sent"


def unix_socket(path: str) -> str:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
    return "connected"


def execute(_: str) -> str:
    subprocess.run(["/bin/true"], check=False)
    return "executed"


def replace(_: str) -> str:
    os.execv("/bin/true", ["true"])


def fork(_: str) -> str:
    if os.fork():
        return "forked"
    os._exit(0)


def thread(_: str) -> str:
    thread = threading.Thread(target=print)
    thread.start()
    return "started"


def kill(pid: str) -> str:
    os.kill(int(pid), 0)
    return "killed"


def kill_server(_: str) -> str:
    return kill(str(os.getppid()))


def limit(pid: str) -> str:
    resource.prlimit(int(pid), resource.RLIMIT_NOFILE, (5, 5))
    return "limited"


def trace(pid: str) -> str:
    _called(_PTRACE, 16, int(pid), 0, 0)  # PTRACE_ATTACH
    return "traced"


def peek(pid: str) -> str:
    _called(_PROCESS_VM_READV, int(pid), 0, 0, 0, 0, 0)
    return "peeked"


def _called(*arguments: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(*map(ctypes.c_long, arguments)) < 0:
        raise OSError(ctypes.get_errno(), "")


def descriptors(_: str) -> str:
    return " ".join(str(number) for number in range(1024) if _is_open(number))


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def limits(_: str) -> str:
    kinds = (resource.RLIMIT_NOFILE, resource.RLIMIT_CORE, resource.RLIMIT_NPROC)
    return " ".join(str(resource.getrlimit(kind)) for kind in kinds)


def allocate(_: str) -> str:
    kept = []
    while True:
        kept.append(bytearray(64 * 1024**2))


def spin(_: str) -> NoReturn:
    resource.setrlimit(resource.RLIMIT_CPU, (1, resource.getrlimit(resource.RLIMIT_CPU)[1]))
    while True:
        pass


def fill(path: str) -> str:
    with open(path, "wb") as file:
        file.truncate(1 << 40)
    return "filled"


def crash(_: str) -> str:
    return str(ctypes.string_at(0))


def abort(_: str) -> NoReturn:
    os.abort()


def fail(_: str) -> NoReturn:
    raise RuntimeError("a defect")


def chatter(_: str) -> str:
    for _time in range(1000):
        os.write(2, bytes(1000))
    return "written"


def hang(path: str) -> str:
    Path(path).touch()
    time.sleep(3600)
    return "awake"


def close_output(_: str) -> str:
    os.close(2)
    time.sleep(3600)
    return "awake"


BEHAVIOURS: dict[str, Callable[[str], str]] = {
    behaviour.__name__: behaviour
    for behaviour in (
        environment, read, write, delete, rename, link, permit, connect, datagram, unix_socket, execute, replace, fork,
        thread, kill, kill_server, limit, trace, peek, descriptors, limits, allocate, spin, fill, crash, abort, fail,
        chatter, hang, close_output,
    )
}  # fmt: skip


def hostile_examine(source: Path, *, max_seconds: float) -> SampleFormat:
    """Show the behaviour that the source names; ``decode`` stands for none."""
    name, _, argument = source.read_text().partition(" ")
    if name == "decode":
        return FORM
    try:
        finding = BEHAVIOURS[name](argument)
    except OSError as error:
        finding = errno.errorcode[error.errno or 0]
    except RuntimeError as error:
        if "start new thread" not in str(error):
            raise
        finding = "EAGAIN"
    raise PermanentError(finding, code=ErrorCode.NOT_AUDIO)


def hostile_decode(source: Path, folder: Path, **_: object) -> Mixture:
    """Report a mixture that is not what the folder has: the source names it."""
    return Mixture(folder / "mixture.wav", 1.0, int(source.read_text().split()[1]), ())


if __name__ == "__main__":
    probe.examine, decode.decode = hostile_examine, hostile_decode
    sys.exit(server.main(int(sys.argv[1])))
