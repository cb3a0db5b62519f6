"""A scripted child: ``python -m tests.processor.workers.children.scripted FOLDER BEHAVIOUR… DESCRIPTOR``.

The first process that is started with ``FOLDER`` has the first behaviour, the second process the second one, and so on;
the last behaviour repeats. Each process writes its process id to a file in the folder, named by its number.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

from pipeline.errors import ErrorCode, ErrorKind
from processor.ipc import (
    COMMANDS,
    REPORTS,
    Cancel,
    ChildSettings,
    Command,
    Done,
    Failed,
    Fatal,
    LoadedModels,
    ModelLoaded,
    Progress,
    Ready,
    Report,
    Separate,
    SetupFailed,
    Started,
    Stem,
)
from processor.system.channel import Channel

Parent = Channel[Report, Command]

STEMS = ("vocals", "instrumental")


def get_ready(parent: Parent) -> None:
    settings = parent.receive()
    assert isinstance(settings, ChildSettings)
    parent.send(Ready(settings.model.model_name, "cpu", 0.0))


def next_job(parent: Parent) -> Separate:
    while not isinstance(command := parent.receive(), Separate):
        assert isinstance(command, Cancel)
    return command


def accept_job(parent: Parent) -> Separate:
    """Accept a job, and create the file ``begun-1`` beside the folder (``begun-2`` for the second job)."""
    job = next_job(parent)
    parent.send(Started(job.job))
    sibling(f"begun-{job.job}").touch()
    return job


def sibling(name: str) -> Path:
    return Path(sys.argv[1]).parent / name


def done(job: Separate) -> Done:
    """Return stems whose content names their job; they are not audio."""
    return Done(job.job, tuple(stem(job, name) for name in STEMS), str(job.model), "cpu")


def content_of(name: str, job: int) -> bytes:
    """Return the content of a stem of a process's ``job``-th job."""
    return f"{name} of job {job}".encode()


def stem(job: Separate, name: str) -> Stem:
    content, path = content_of(name, job.job), job.folder / f"{name}.wav"
    path.write_bytes(content)
    return Stem(name, path, hashlib.sha256(content).hexdigest(), len(content), job.frames, 44_100, 2, 1.0)


def work(parent: Parent) -> None:
    get_ready(parent)
    serve(parent)


def serve(parent: Parent) -> None:
    while True:
        job = accept_job(parent)
        parent.send(ModelLoaded(job.job))
        for fraction in (0.0, 0.5, 1.0):
            parent.send(Progress(job.job, fraction))
        parent.send(done(job))


def exit_in_setup(parent: Parent) -> None:
    parent.receive()
    sys.exit(3)


def refuse_setup(parent: Parent) -> None:
    parent.receive()
    parent.send(SetupFailed(ErrorCode.MODEL_UNAVAILABLE, "there is no model today"))
    hang()  # like a process that is slow to exit


def report_full_disk(parent: Parent) -> None:
    parent.receive()
    parent.send(SetupFailed(ErrorCode.DISK_FULL, "the disk is full"))


def hang_in_setup(parent: Parent) -> None:
    parent.receive()
    hang()


def get_ready_when_released(parent: Parent) -> None:
    """Wait for the file ``go`` beside the folder."""
    settings = parent.receive()
    assert isinstance(settings, ChildSettings)
    while not sibling("go").exists():
        if parent.poll(0.02):
            parent.receive()  # raises EOFError if the parent has exited
    parent.send(Ready(settings.model.model_name, "cpu", 0.0))
    serve(parent)


def die_before_the_job(parent: Parent) -> None:
    get_ready(parent)
    next_job(parent)
    os.kill(os.getpid(), signal.SIGKILL)


def stop_before_the_job(parent: Parent) -> None:
    get_ready(parent)
    next_job(parent)
    os.kill(os.getpid(), signal.SIGSTOP)


def hang_while_loading(parent: Parent) -> None:
    """Hang while loading the job's model."""
    get_ready(parent)
    accept_job(parent)
    hang()


def load_slowly(parent: Parent) -> None:
    """Load as slowly as a model that must be downloaded first."""
    get_ready(parent)
    while True:
        job = accept_job(parent)
        threading.Event().wait(1.0)
        parent.send(ModelLoaded(job.job))
        parent.send(done(job))


def load_two_models(parent: Parent) -> None:
    """Act like an ensemble of two models, each of which needs some time for the song."""
    get_ready(parent)
    job = accept_job(parent)
    for _ in range(2):
        parent.send(Started(job.job))
        parent.send(ModelLoaded(job.job))
        threading.Event().wait(0.6)
    parent.send(done(job))
    hang()


def in_job(act: Callable[[Parent, Separate], None]) -> Callable[[Parent], None]:
    def behave(parent: Parent) -> None:
        get_ready(parent)
        while True:
            job = accept_job(parent)
            parent.send(ModelLoaded(job.job))
            parent.send(Progress(job.job, 0.5))
            act(parent, job)

    return behave


def die(_parent: Parent, _job: Separate) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_for_deadly_model(parent: Parent, job: Separate) -> None:
    """Die if the model's name is ``deadly``."""
    if job.model == "deadly":
        die(parent, job)
    parent.send(done(job))


def stop(_parent: Parent, _job: Separate) -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def report_fatal(parent: Parent, job: Separate) -> None:
    parent.send(Fatal(job.job, "the device has fallen off"))
    hang()


def send_garbage(parent: Parent, _job: Separate) -> None:
    Connection(os.dup(parent.fileno())).send_bytes(b"this is no message")
    hang()


def name_foreign_file(parent: Parent, job: Separate) -> None:
    """Report a stem in a file that the job did not write."""
    parent.send(Done(job.job, (replace(stem(job, "vocals"), path=job.folder / "../secrets.env"),), "model", "cpu"))
    hang()


def honour_cancel(parent: Parent, job: Separate) -> None:
    assert parent.receive() == Cancel(job.job)
    parent.send(Failed(job.job, ErrorKind.CANCELLED, ErrorCode.SHUTTING_DOWN, "stopped"))


def finish_despite_cancel(parent: Parent, job: Separate) -> None:
    assert parent.receive() == Cancel(job.job)
    parent.send(done(job))


def finish_when_released(parent: Parent, job: Separate) -> None:
    """Wait for the file ``go-1`` beside the folder for the first job, ``go-2`` for the second, …, or for a cancel."""
    while not sibling(f"go-{job.job}").exists():
        if parent.poll(0.02):
            honour_cancel(parent, job)
            return
    parent.send(done(job))


def hold(parent: Parent, job: Separate) -> None:
    """Keep the models of all jobs loaded, like the real child while there is memory."""
    held.add(str(job.model))
    parent.send(LoadedModels(tuple(sorted(held))))
    parent.send(done(job))


held: set[str] = set()


def ignore_cancel(_parent: Parent, _job: Separate) -> None:
    hang()


def send_stale_report(parent: Parent, job: Separate) -> None:
    """Send a report about the previous job first."""
    parent.send(Fatal(job.job - 1, "yesterday's trouble"))
    parent.send(done(job))


def fail(parent: Parent, job: Separate) -> None:
    """Fail with the kind of error that the model's name names."""
    parent.send(Failed(job.job, ErrorKind(str(job.model)), ErrorCode.SEPARATION_FAILED, f"{job.model} it is"))


def hang() -> None:
    threading.Event().wait()


BEHAVIOURS: dict[str, Callable[[Parent], None]] = {
    behaviour.__name__: behaviour
    for behaviour in (
        work,
        exit_in_setup,
        refuse_setup,
        report_full_disk,
        hang_in_setup,
        get_ready_when_released,
        die_before_the_job,
        stop_before_the_job,
        hang_while_loading,
        load_slowly,
        load_two_models,
    )
} | {
    f"{act.__name__}_in_job": in_job(act)
    for act in (
        die,
        die_for_deadly_model,
        stop,
        report_fatal,
        send_garbage,
        name_foreign_file,
        honour_cancel,
        finish_despite_cancel,
        finish_when_released,
        hold,
        ignore_cancel,
        send_stale_report,
        fail,
    )
}


def register(folder: Path) -> int:
    """Write the process id to a new file; return the number of earlier processes."""
    for number in itertools.count():
        with contextlib.suppress(FileExistsError), (folder / f"{number:03}").open("x") as file:
            file.write(str(os.getpid()))
            return number
    raise AssertionError


def main(folder: Path, *behaviours: str) -> None:
    number = register(folder)
    parent: Parent = Channel(Connection(int(sys.argv[-1])), sends=REPORTS, receives=COMMANDS)
    try:
        BEHAVIOURS[behaviours[min(number, len(behaviours) - 1)]](parent)
    except EOFError:
        sys.exit(0)  # the parent has exited


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:-1])
