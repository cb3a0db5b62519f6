"""A long and lossy line on one machine: a TUN device that delays and drops packets.

    python -m benchmarks.download.link ROUND_TRIP LOSS

The kernel's netem does the same, but many kernels lack it. A packet sent to ``FAR`` leaves through the device and
returns half a round trip (s) later with source and destination exchanged. So a client that connects to ``FAR`` reaches
a server that listens on ``NEAR``, and both use the kernel's TCP. Each packet is dropped with probability LOSS. The
program prints a line when the device is up, and ends with its standard input. It needs a network namespace or root.
"""

from __future__ import annotations

import fcntl
import os
import random
import select
import socket
import struct
import sys
import time
from collections import deque
from pathlib import Path
from typing import Final

NEAR: Final = "10.255.77.1"
FAR: Final = "10.255.77.2"
DEVICE: Final = Path("/dev/net/tun")

_NAME = b"slow0"
_MTU = 1500
_QUEUE = 20_000
#: Maximum packets read before due packets are written.
_BURST = 64

# linux/if_tun.h, linux/sockios.h, linux/if.h
_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000
_SIOCSIFFLAGS, _SIOCSIFADDR, _SIOCSIFNETMASK, _SIOCSIFMTU, _SIOCSIFTXQLEN = 0x8914, 0x8916, 0x891C, 0x8922, 0x8943
_IFF_UP = 0x1


def bring_up(name: bytes) -> None:
    """Bring an interface up, for example ``lo``. Raises OSError."""
    _configure(_SIOCSIFFLAGS, name, struct.pack("H", _IFF_UP))


def open_device() -> int:
    """Create a TUN device with the address ``NEAR``, bring it up, and return its descriptor. Raises OSError."""
    descriptor = os.open(DEVICE, os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH22x", _NAME, _IFF_TUN | _IFF_NO_PI))
    _configure(_SIOCSIFADDR, _NAME, _address(NEAR))
    _configure(_SIOCSIFNETMASK, _NAME, _address("255.255.255.0"))
    _configure(_SIOCSIFMTU, _NAME, struct.pack("i", _MTU))
    _configure(_SIOCSIFTXQLEN, _NAME, struct.pack("i", _QUEUE))
    bring_up(_NAME)
    return descriptor


class Link:
    """Delays and drops packets. ``round_trip`` in s, ``loss``: probability per packet."""

    def __init__(self, descriptor: int, round_trip: float, loss: float, seed: int = 1) -> None:
        self._descriptor = descriptor
        self._delay = round_trip / 2
        self._loss = loss
        self._random = random.Random(seed)
        self._in_flight: deque[tuple[float, bytes]] = deque()

    def carry(self, stop: int) -> None:
        """Forward packets until the descriptor ``stop`` is readable."""
        while True:
            wait = max(0.0, self._in_flight[0][0] - time.monotonic()) if self._in_flight else None
            readable, _, _ = select.select([self._descriptor, stop], [], [], wait)
            if stop in readable:
                return
            if readable:
                self._receive()
            self._deliver()

    def _receive(self) -> None:
        due = time.monotonic() + self._delay
        for _ in range(_BURST):
            try:
                packet = os.read(self._descriptor, _MTU + 64)
            except BlockingIOError:
                return
            if self._random.random() >= self._loss and packet[0] >> 4 == 4:
                self._in_flight.append((due, reflected(packet)))

    def _deliver(self) -> None:
        now = time.monotonic()
        while self._in_flight and self._in_flight[0][0] <= now:
            os.write(self._descriptor, self._in_flight.popleft()[1])


def reflected(packet: bytes) -> bytes:
    """Return an IPv4 packet with source and destination exchanged; its checksums stay valid."""
    return packet[:12] + packet[16:20] + packet[12:16] + packet[20:]


def _configure(request: int, name: bytes, value: bytes) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, request, struct.pack("16s24s", name, value))


def _address(address: str) -> bytes:
    return struct.pack("HH4s8x", socket.AF_INET, 0, socket.inet_aton(address))


def main() -> None:
    """Carry packets over the lossy line until the process is killed."""
    link = Link(open_device(), float(sys.argv[1]), float(sys.argv[2]))
    sys.stdout.write("up\n")
    sys.stdout.flush()
    link.carry(sys.stdin.fileno())


if __name__ == "__main__":
    main()
