"""`./start_local.sh separate`: separate files and URLs with the services of this machine."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from config import Settings
from demo.centre_model import DEMO_MODEL_NAME
from demo.client import ClientError, LocalClient, fetch_stems, progress_printer, subscribed_events
from demo.listener import Listener, Received, signing_secret
from pipeline.messages import OutputFormat
from pipeline.service.command_line import print_error, printable

#: The folder from which the user called the script, which itself changes to the checkout.
_CALLER = "UVR_CALLER_FOLDER"


@dataclass(frozen=True)
class SongArgument:
    """A song of the command line."""

    source: str
    """The path or URL as it was given."""
    path: Path | None
    """The file; None for a URL."""

    @property
    def name(self) -> str:
        """The name of the song's folder: the file name without extension."""
        name = self.path.name if self.path else Path(unquote(urlsplit(self.source).path)).name
        return Path(name).stem.lstrip(".") or "song"


@dataclass(frozen=True)
class SeparationRequest:
    """What the command line asks for."""

    songs: Sequence[SongArgument]
    output: Path
    fields: Mapping[str, object]
    """Fields of the jobs, such as the model."""


def read_request(arguments: Sequence[str]) -> SeparationRequest:
    """Parse the arguments of the command. Ends the program with a message if they are wrong."""
    parser = argparse.ArgumentParser(
        prog="start_local.sh separate",
        description="Separate songs and write their stems to OUTPUT/SONG/. Uses the services that run in this "
        "checkout, or starts them for the time of the command.",
    )
    parser.add_argument("songs", nargs="+", metavar="SONG", help="an audio file, or the http(s) URL of one")
    parser.add_argument("--model", help="file name of the model; default: MODEL_NAME")
    parser.add_argument("--stems", help="names of the stems to write, separated by commas; default: all")
    parser.add_argument("--format", choices=[form.value for form in OutputFormat], help="format; default: wav")
    parser.add_argument("--output", metavar="OUTPUT", default="stems", help="folder of the results; default: stems")
    options = parser.parse_args(arguments)
    caller = Path(os.environ.get(_CALLER) or Path.cwd())
    fields = {
        "model": options.model,
        "stems": options.stems and [name.strip() for name in options.stems.split(",")],
        "output_format": options.format,
    }
    songs = [_song(source, caller, parser) for source in options.songs]
    return SeparationRequest(songs, caller / options.output, {name: value for name, value in fields.items() if value})


def _song(source: str, caller: Path, parser: argparse.ArgumentParser) -> SongArgument:
    if urlsplit(source).scheme in ("http", "https"):
        return SongArgument(source, None)
    path = caller / source
    if not path.is_file():
        parser.error(f"{source}: there is no such file")
    if not os.access(path, os.R_OK):
        parser.error(f"{source}: the file is not readable")
    return SongArgument(source, path)


def separate(request: SeparationRequest, settings: Settings, api_url: str, *, watch: Callable[[], None]) -> int:
    """Separate the songs with the services at `api_url`; return the number of songs that failed.

    `watch` is called during waits; it raises if the services have ended. Raises ClientError if the services refuse
    every job alike, or a stem cannot be fetched.
    """
    if settings.model.model_name == DEMO_MODEL_NAME and "model" not in request.fields:
        print_error(f"Note: {DEMO_MODEL_NAME} is made for the demo song. Name another with --model or MODEL_NAME.")
    served = {f"{number}/{song.path.name}": song.path for number, song in enumerate(request.songs) if song.path}
    with (
        Listener(served, signing_secret(settings)) as listener,
        subscribed_events(settings) as events,
    ):
        client = LocalClient(settings, api_url, listener, events, watch)
        tasks, refused = _post_all(client, request)
        folders = _folders(request.output, tasks)
        failed = 0

        def line_of(task: str, status: str, progress: float) -> str:
            return f"{printable(tasks[task].name)}: {status} {int(progress * 10) / 10:.0%}"

        for received in client.follow(tasks, progress_printer(line_of)):
            task = str(received.body["task_uuid"])
            failed += not _finish(received, tasks[task], folders[task])
    return refused + failed


def _post_all(client: LocalClient, request: SeparationRequest) -> tuple[dict[str, SongArgument], int]:
    """Post all songs; return the accepted ones by their task, and the number of the others."""
    tasks: dict[str, SongArgument] = {}
    refused = 0
    for number, song in enumerate(request.songs):
        audio = client.listener.url(f"{number}/{song.path.name}") if song.path else song.source
        try:
            tasks[client.post(audio=audio, **request.fields)] = song
        except ClientError as error:
            refused += 1
            print_error(f"{song.source}: {error}")
    return tasks, refused


def _folders(output: Path, tasks: Mapping[str, SongArgument]) -> dict[str, Path]:
    """Return a folder for each task; songs of the same name get numbers."""
    folders: dict[str, Path] = {}
    for task, song in tasks.items():
        folder, number = output / song.name, 2
        while folder in folders.values():
            folder, number = output / f"{song.name} ({number})", number + 1
        folders[task] = folder
    return folders


def _finish(received: Received, song: SongArgument, folder: Path) -> bool:
    """Fetch the stems of a song and print their paths; return False if it failed."""
    body = received.body
    if body["status"] != "success":
        print_error(f"{song.source}: {body.get('error_message')} ({body.get('error', {}).get('code')})")
        return False
    for path in fetch_stems(body["stems"], folder):
        print(printable(str(path)), flush=True)
    for note in body["degraded"]:
        print_error(f"{song.source}: {note}")
    return True
