"""Separate files with the unchanged `audio-separator` in a process without a network.

    python -m tests.demo.offline_separator MODEL_DIR < [{"mixture": ..., "output_dir": ..., "segment_size": ...}, ...]

It prints the lookups and connections that it blocked. The first one is its own, which shows that blocking works.
A separate process is needed also because the import of `audio-separator` changes the process: warning filters,
loggers, and lazy modules that fail when they are inspected, as Hypothesis does.
"""

from __future__ import annotations

import json
import logging
import socket
import sys
from contextlib import suppress
from typing import Any

from demo.centre_model import DEMO_MODEL_NAME

OWN_ATTEMPT = "192.0.2.1"
"""An address for documentation (RFC 5737), which no host has."""

_NETWORK_EVENTS = {"socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"}


def block_network() -> list[str]:
    """Block network access of this process; return a list to which every blocked attempt is added."""
    blocked: list[str] = []

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if event in _NETWORK_EVENTS:
            blocked.append(f"{event} {arguments[-1] if event == 'socket.connect' else arguments[0]}")
            raise OSError("no network in this process")

    sys.addaudithook(audit)
    return blocked


def separate(model_dir: str, mixture: str, output_dir: str, segment_size: int) -> None:
    from audio_separator.separator import Separator

    separator = Separator(
        log_level=logging.WARNING,
        model_file_dir=model_dir,
        output_dir=output_dir,
        # The default of 0.9 changes the level of loud stems of a mixture with a peak of 1.
        normalization_threshold=1.0,
        mdx_params={
            "hop_length": 1024,
            "segment_size": segment_size,
            "overlap": 0.25,
            "batch_size": 1,
            "enable_denoise": False,
        },
    )
    separator.load_model(DEMO_MODEL_NAME)
    separator.separate(mixture, {"Vocals": "vocals", "Instrumental": "instrumental"})


def main() -> None:
    blocked = block_network()
    with suppress(OSError):
        socket.create_connection((OWN_ATTEMPT, 443), timeout=1)
    for job in json.load(sys.stdin):
        separate(sys.argv[1], **job)
    sys.stdout.write(json.dumps(blocked))


if __name__ == "__main__":
    main()
