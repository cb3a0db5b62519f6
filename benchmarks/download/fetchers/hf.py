"""python -m benchmarks.download.fetchers.hf URL FILE: hf_transfer, called as huggingface_hub did."""

from __future__ import annotations

import sys

import hf_transfer

from benchmarks.download.fetchers.figures import reported_figures

_CHUNK_BYTES = 10 * 1024**2
_FILES = 100


def main() -> None:
    """Download one file with hf_transfer and report its figures."""
    url, target = sys.argv[1:]
    with reported_figures():
        hf_transfer.download(
            url=url, filename=target, max_files=_FILES, chunk_size=_CHUNK_BYTES, parallel_failures=3, max_retries=5
        )


if __name__ == "__main__":
    main()
