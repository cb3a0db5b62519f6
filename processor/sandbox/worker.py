"""The work of a disposable process: it confines itself, then probes and decodes one source."""

from __future__ import annotations

import signal
from contextlib import suppress
from pathlib import Path

from pipeline.cancellation import CancelToken
from pipeline.errors import InfrastructureError, PermanentError, PipelineError
from processor.audio import decode, probe
from processor.audio.errors import audio_corrupt
from processor.sandbox.confinement import confine
from processor.sandbox.messages import (
    Confine,
    Confined,
    Decode,
    Decoded,
    Examine,
    Examined,
    Refused,
    SandboxCommand,
    SandboxReply,
)
from processor.system.channel import Channel, ProtocolError
from processor.system.linux import IS_LINUX, end_with_parent


def serve_source(channel: Channel[SandboxReply, SandboxCommand]) -> None:
    """Follow the commands for one source until the processor closes ``channel``. Raises whatever is not classified."""
    if IS_LINUX:
        end_with_parent()
    for number in (signal.SIGXCPU, signal.SIGXFSZ):  # Python ignores the second one, and a full disk would be reported
        signal.signal(number, signal.SIG_DFL)
    with suppress(EOFError):
        confined = channel.receive()
        assert isinstance(confined, Confine)
        channel.send(Confined(confine(confined.folder, confined.max_seconds)))
        while True:
            channel.send(_reply(channel.receive(), confined))


def _reply(command: SandboxCommand, confined: Confine) -> SandboxReply:
    try:
        match command:
            case Examine():
                return Examined(probe.examine(command.source, max_seconds=confined.max_seconds))
            case Decode():
                return _decoded(command.source, confined)
            case Confine():
                raise ProtocolError("a process is confined once")
    except MemoryError:
        error: PipelineError = audio_corrupt("the source needs more memory to decode than any valid file")
    except (PermanentError, InfrastructureError) as classified:
        error = classified
    return Refused(isinstance(error, PermanentError), error.code, error.message)


def _decoded(source: Path, confined: Confine) -> Decoded:
    # A cancelled job kills this process, and needs no token.
    mixture = decode.decode(source, confined.folder, max_seconds=confined.max_seconds, cancel=CancelToken())
    return Decoded(
        peak=mixture.peak,
        frames=mixture.frames,
        notes=mixture.notes,
        source_rate=mixture.source_rate,
        source_frames=mixture.source_frames,
        bits=mixture.bits,
    )
