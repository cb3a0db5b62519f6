"""Typed messages between two processes of a service, over a pipe or a socket: dataclasses as JSON, never pickle.

A message is one frame of ``multiprocessing.connection.Connection`` (its length, then its bytes): a line with the
protocol, its version and the type of the message, then the fields as JSON. The receiver accepts the types of its schema
only and validates every field with pydantic, so that a process that was taken over can send data and nothing else.

    REPORTS = Schema[Done | Failed]("decoder report", 1, Done, Failed)
    channel = Channel(connection, sends=COMMANDS, receives=REPORTS)
"""

from __future__ import annotations

import json
from functools import cached_property
from multiprocessing.connection import Connection
from pathlib import PurePath
from types import TracebackType
from typing import Any, Generic, NoReturn, Self, TypeVar

from pydantic import SecretStr, TypeAdapter, ValidationError

#: The default size limit of a received message, bytes.
MAX_BYTES = 1024 * 1024

Sent = TypeVar("Sent")
Received = TypeVar("Received")


class ProtocolError(Exception):
    """A received frame is not a message of the schema. The text has no value of the message."""


class Schema(Generic[Received]):
    """The messages of one direction: dataclasses with annotated fields, distinguished by their class names.

    Raise ``version`` with every change of a field: a process that runs other code is then refused.
    Floats that must be finite are annotated ``pydantic.FiniteFloat``. Secrets (``SecretStr``) are sent in the clear.
    """

    def __init__(self, name: str, version: int, *messages: type[Any]) -> None:
        self._name = f"{name}/{version}"
        self._messages = {message.__name__: message for message in messages}

    @cached_property
    def _adapters(self) -> dict[str, TypeAdapter[Any]]:
        return {name: TypeAdapter(message) for name, message in self._messages.items()}

    def encode(self, message: Received) -> bytes:
        """Return the frame of ``message``. Raises ValueError for a number that is not finite."""
        kind = type(message).__name__
        fields = self._adapters[kind].dump_python(message)
        return f"{self._name} {kind}\n{json.dumps(fields, default=_plain, allow_nan=False)}".encode()

    def decode(self, frame: bytes) -> Received:
        """Return the message of a frame. Raises ProtocolError."""
        header, _, body = frame.partition(b"\n")
        name, _, kind = header.decode(errors="replace").rpartition(" ")
        if name != self._name:
            raise ProtocolError(f"a message of {self._name} was expected, not of {name[:80]!r}")
        if kind not in self._adapters:
            raise ProtocolError(f"{self._name} has no message {kind[:80]!r}")
        try:
            message: Received = self._adapters[kind].validate_python(json.loads(body, parse_constant=_reject))
        except ValidationError as error:
            fields = {".".join(map(str, each["loc"])): each["type"] for each in error.errors(include_input=False)}
            raise ProtocolError(f"{kind} is not valid: {fields}") from None
        except (ValueError, RecursionError):
            raise ProtocolError(f"{kind} is not valid: its fields are no JSON") from None
        return message


class Channel(Generic[Sent, Received]):
    """One end of a connection. One thread may send while another one receives."""

    def __init__(
        self,
        connection: Connection,
        *,
        sends: Schema[Sent],
        receives: Schema[Received],
        max_bytes: int = MAX_BYTES,
    ) -> None:
        """``max_bytes``: of a received message. The channel closes ``connection``."""
        self._connection, self._sends, self._receives, self._max_bytes = connection, sends, receives, max_bytes

    def send(self, message: Sent) -> None:
        """Send a message, and wait until the system has taken all of it. Raises OSError."""
        self._connection.send_bytes(self._sends.encode(message))

    def receive(self) -> Received:
        """Wait for the next message. Raises EOFError at the end, OSError, ProtocolError."""
        try:
            frame = self._connection.recv_bytes(self._max_bytes)
        except OSError as error:
            if error.errno is None:  # raised by the connection, not by the system
                raise ProtocolError(f"a message is longer than {self._max_bytes} bytes") from None
            raise
        return self._receives.decode(frame)

    def poll(self, timeout: float) -> bool:
        """Return whether there is something to receive within ``timeout`` s, the end included. Raises OSError."""
        return self._connection.poll(timeout)

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._connection.fileno()

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def _plain(value: object) -> str:
    """Return the JSON form of a value that JSON does not have."""
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    raise TypeError(f"{type(value).__name__} cannot be sent")


def _reject(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number")
