"""HTTP/3 beside HTTP/1.1: the same file from one server process, by this engine, over loopback and the lossy line.

    python -m benchmarks.download.http3 serve FOLDER BYTES     one server of each kind, for the benchmark
    python -m benchmarks.download.http3 fetch URL FILE …       one download, for the benchmark

The servers are Python programs of the tests: HTTP/1.1 over TLS on the kernel's TCP, with CUBIC or BBR, and HTTP/3 by
aioquic, whose congestion control (CUBIC) and loss recovery are Python code. aioquic is slow: over loopback, the time is
its own. The lossy line is slower than any of the servers.
"""

from __future__ import annotations

import argparse
import json
import socket
import ssl
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Final, Literal

import structlog
import trustme

from benchmarks.download.clients import environment
from benchmarks.download.fetchers.figures import reported_figures
from benchmarks.download.laboratory import LOOPBACK, lossy_line
from benchmarks.download.link import FAR
from benchmarks.download.measure import measure
from benchmarks.download.rows import LOSS, ROUND_TRIP, log_progress
from benchmarks.download.sandbox import congestion_controls, has_lossy_line, service, workspace, write_random
from benchmarks.download.server.profile import MIB
from benchmarks.page import markdown_table
from config import DownloadSettings
from pipeline.cancellation import CancelToken
from pipeline.download import ConnectionOptions, DownloadLimits, UrlGuard, download

_MODULE: Final = "benchmarks.download.http3"
_SIZE: Final = 4 * MIB
_QUICK_SIZE: Final = MIB // 2
_REPEATS: Final = 3
_TIMEOUT: Final = 240.0
#: Names of the servers, and their versions of HTTP.
_SERVERS: Final[dict[str, Literal["1.1", "3"]]] = {"1.1, CUBIC": "1.1", "1.1, BBR": "1.1", "3, CUBIC": "3"}
_PATH: Final = "/song.wav"


def http3_section(quick: bool) -> str:
    """Measure, and return a table in Markdown. Without a TUN device the lossy line is left out."""
    size, repeats = (_QUICK_SIZE, 1) if quick else (_SIZE, _REPEATS)
    with workspace(4 * size) as folder, service(_MODULE, "serve", str(folder), str(size)) as line:
        ports: dict[str, int] = json.loads(line)
        rows = list(_rows("loopback", LOOPBACK, folder, ports, repeats))
        if has_lossy_line():
            with lossy_line(ROUND_TRIP, LOSS) as host:
                rows += _rows(f"{ROUND_TRIP * 1000:g} ms, {LOSS:.0%} loss", host, folder, ports, repeats)
    table = markdown_table(("line", "HTTP", "connections, at most", "wall s", "from – to", "CPU s", "failures"), rows)
    return (
        f"### HTTP/3 beside HTTP/1.1\n\n{size / MIB:g} MiB over TLS, this engine; the HTTP/3 server is aioquic, a slow "
        f"Python program (see `benchmarks/download/http3.py`).\n\n{table}"
    )


def _rows(line: str, host: str, folder: Path, ports: dict[str, int], repeats: int) -> Iterator[Sequence[str]]:
    cases = [(name, connections) for connections in (1, DownloadSettings().connections) for name in ports]
    target = folder / "fetched"
    for name, connections in cases:
        samples, failures = [], 0
        for _ in range(repeats):
            url = f"https://{host}:{ports[name]}{_PATH}"
            order = ("fetch", url, str(target), str(folder / "ca.pem"), _SERVERS[name], str(connections))
            command = (sys.executable, "-m", _MODULE, *order)
            measured = measure(command, timeout=_TIMEOUT, environment=environment(), folder=folder)
            samples.append(measured)
            right = target.exists() and target.read_bytes() == (folder / "source").read_bytes()
            failures += measured.exit_code != 0 or not right
            target.unlink(missing_ok=True)
            log_progress(f"http3: {line}, HTTP/{name}, {connections} connections: {measured.wall:.2f} s")
        walls = [sample.wall for sample in samples]
        spread = f"{min(walls):.2f} – {max(walls):.2f}"
        cpu = median(sample.cpu for sample in samples)
        yield line, name, str(connections), f"{median(walls):.2f}", spread, f"{cpu:.2f}", str(failures)


@contextmanager
def _servers(folder: Path, size: int) -> Iterator[dict[str, int]]:
    """Serve ``size`` random bytes by each of ``_SERVERS``, and yield their ports. The authority is in ``ca.pem``."""
    # Development packages, which the benchmark's other rows do without.
    from tests.pipeline.download.http.http3_server import Http3Server, file_response
    from tests.support.ranged_source import RangedFile
    from tests.support.source_server import SourceServer

    write_random(folder / "source", size, seed=3)
    data = (folder / "source").read_bytes()
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    certificate = authority.issue_cert(LOOPBACK, FAR)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    everywhere = "0.0.0.0"
    with ExitStack() as stack:
        ports = {}
        for name, version in _SERVERS.items():
            congestion = name.partition(", ")[2].lower()
            if version == "1.1" and congestion in congestion_controls():
                http1 = stack.enter_context(SourceServer(everywhere, tls=context))
                http1._listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, congestion.encode())
                http1.add(_PATH, RangedFile(data))
                ports[name] = http1.port
            elif version == "3":
                ports[name] = stack.enter_context(Http3Server(certificate, file_response(data), everywhere)).port
        yield ports


def _fetch(arguments: argparse.Namespace) -> None:
    with reported_figures():
        download(
            arguments.url,
            arguments.target,
            guard=UrlGuard(allow_private=True),
            limits=DownloadLimits(
                max_bytes=2**40,
                connect_timeout=30.0,
                stall_timeout=30.0,
                total_timeout=_TIMEOUT,
                max_connections=arguments.connections,
            ),
            cancel=CancelToken(),
            connection_options=ConnectionOptions(ca_bundle=arguments.authority, http=arguments.version),
        )


def main() -> None:
    """Run one command: ``serve`` a file over HTTP/3 and HTTP/1.1, or ``fetch`` it."""
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    parser = argparse.ArgumentParser(prog=f"python -m {_MODULE}")
    commands = parser.add_subparsers(dest="command", required=True)
    serving = commands.add_parser("serve")
    serving.add_argument("folder", type=Path)
    serving.add_argument("size", type=int)
    fetching = commands.add_parser("fetch")
    fetching.add_argument("url")
    fetching.add_argument("target", type=Path)
    fetching.add_argument("authority", type=Path)
    fetching.add_argument("version", choices=("1.1", "3"))
    fetching.add_argument("connections", type=int)
    arguments = parser.parse_args()
    if arguments.command == "fetch":
        _fetch(arguments)
        return
    with _servers(arguments.folder, arguments.size) as ports:
        sys.stdout.write(f"{json.dumps(ports)}\n")
        sys.stdout.flush()
        sys.stdin.read()


if __name__ == "__main__":
    main()
