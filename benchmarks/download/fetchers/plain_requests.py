"""python -m benchmarks.download.fetchers.plain_requests URL FILE CHUNK_BYTES [TIMEOUT]: a plain loop over requests."""

from __future__ import annotations

import sys

import requests

from benchmarks.download.fetchers.figures import reported_figures


def fetch_with_requests(url: str, target: str, chunk_bytes: int, timeout: float | None) -> None:
    """Download ``url`` into ``target`` over one connection, as most Python programs do. ``timeout`` in s."""
    with requests.get(url, stream=True, timeout=timeout) as response:
        response.raise_for_status()
        with open(target, "wb") as file:
            for chunk in response.iter_content(chunk_bytes):
                file.write(chunk)


def main() -> None:
    """Download one file with requests and report its figures."""
    url, target, chunk_bytes, *timeout = sys.argv[1:]
    with reported_figures():
        fetch_with_requests(url, target, int(chunk_bytes), float(timeout[0]) if timeout else None)


if __name__ == "__main__":
    main()
