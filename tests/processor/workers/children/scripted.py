"""A child that does as it is told: ``python -m tests.processor.workers.children.scripted FOLDER BEHAVIOUR… DESCRIPTOR``.

The first process that is started with ``FOLDER`` shows the first behaviour, the second the second, and all after the
last one the last. Each leaves its process id there, in a file named by its number.
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
from multiprocessing.connection import Connection
from pathlib import Path

from pipeline.errors import ErrorCode, ErrorKind
from processor.ipc import (
    Cancel,
    ChildSettings,
    Done,
    Failed,
    Fatal,
    LoadedModels,
    ModelLoaded,
    Progress,
    Ready,
    Separate,
    SetupFailed,
    Started,
    Stem,
)

STEMS = ("vocals", "instrumental")


def get_ready(parent: Connection) -> None:
    settings = parent.recv()
    assert isinstance(settings, ChildSettings)
    parent.send(Ready(settings.model_name, "cpu", 0.0))


def next_job(parent: Connection) -> Separate:
    while not isinstance(command := parent.recv(), Separate):
        assert isinstance(command, Cancel)
    return command


def begin(parent: Connection) -> Separate:
    """Take a job, and leave the file ``begun-1`` beside the folder for the first one, ``begun-2`` for the second, …"""
    job = next_job(parent)
    parent.send(Started(job.job))
    beside(f"begun-{job.job}").touch()
    return job


def beside(name: str) -> Path:
    return Path(sys.argv[1]).parent / name


def done(job: Separate) -> Done:
    """Stems that tell which job they were made in; no sound, which nobody here wants to hear."""
    return Done(job.job, tuple(stem(job, name) for name in STEMS), str(job.model), "cpu")


def content_of(name: str, job: int) -> bytes:
    """What is in the stem that the ``job``-th job of a process gives."""
    return f"{name} of job {job}".encode()


def stem(job: Separate, name: str) -> Stem:
    content, path = content_of(name, job.job), job.folder / f"{name}.wav"
    path.write_bytes(content)
    return Stem(name, path, hashlib.sha256(content).hexdigest(), len(content), job.frames, 44_100, 2, 1.0)


def work(parent: Connection) -> None:
    get_ready(parent)
    serve(parent)


def serve(parent: Connection) -> None:
    while True:
        job = begin(parent)
        parent.send(ModelLoaded(job.job))
        for fraction in (0.0, 0.5, 1.0):
            parent.send(Progress(job.job, fraction))
        parent.send(done(job))


def exit_in_setup(parent: Connection) -> None:
    parent.recv()
    sys.exit(3)


def refuse_setup(parent: Connection) -> None:
    parent.recv()
    parent.send(SetupFailed(ErrorCode.MODEL_UNAVAILABLE, "there is no model today"))
    hang()  # as a process that takes its time to end


def find_the_disk_full(parent: Connection) -> None:
    parent.recv()
    parent.send(SetupFailed(ErrorCode.DISK_FULL, "the disk is full"))


def hang_in_setup(parent: Connection) -> None:
    parent.recv()
    hang()


def get_ready_when_told(parent: Connection) -> None:
    """By the file ``go`` beside the folder."""
    settings = parent.recv()
    while not beside("go").exists():
        if parent.poll(0.02):
            parent.recv()  # there is nothing to be said but that the parent is gone
    parent.send(Ready(settings.model_name, "cpu", 0.0))
    serve(parent)


def die_before_the_job(parent: Connection) -> None:
    get_ready(parent)
    next_job(parent)
    os.kill(os.getpid(), signal.SIGKILL)


def stop_before_the_job(parent: Connection) -> None:
    get_ready(parent)
    next_job(parent)
    os.kill(os.getpid(), signal.SIGSTOP)


def hang_while_it_loads(parent: Connection) -> None:
    """A model of the job's own."""
    get_ready(parent)
    begin(parent)
    hang()


def take_its_time_to_load(parent: Connection) -> None:
    """As a model that has to be downloaded first."""
    get_ready(parent)
    while True:
        job = begin(parent)
        threading.Event().wait(1.0)
        parent.send(ModelLoaded(job.job))
        parent.send(done(job))


def load_one_model_after_the_other(parent: Connection) -> None:
    """As for an ensemble of two, each of which takes its time with the song."""
    get_ready(parent)
    job = begin(parent)
    for _ in range(2):
        parent.send(Started(job.job))
        parent.send(ModelLoaded(job.job))
        threading.Event().wait(0.6)
    parent.send(done(job))
    hang()


def in_job(then: Callable[[Connection, Separate], None]) -> Callable[[Connection], None]:
    def behave(parent: Connection) -> None:
        get_ready(parent)
        while True:
            job = begin(parent)
            parent.send(ModelLoaded(job.job))
            parent.send(Progress(job.job, 0.5))
            then(parent, job)

    return behave


def die(_parent: Connection, _job: Separate) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_if_told(parent: Connection, job: Separate) -> None:
    """By the model's name."""
    if job.model == "deadly":
        die(parent, job)
    parent.send(done(job))


def stop(_parent: Connection, _job: Separate) -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def break_down(parent: Connection, job: Separate) -> None:
    parent.send(Fatal(job.job, "the device has fallen off"))
    hang()


def talk_nonsense(parent: Connection, _job: Separate) -> None:
    parent.send_bytes(b"this is no pickle")
    hang()


def obey_a_cancel(parent: Connection, job: Separate) -> None:
    assert parent.recv() == Cancel(job.job)
    parent.send(Failed(job.job, ErrorKind.CANCELLED, ErrorCode.SHUTTING_DOWN, "stopped"))


def finish_all_the_same(parent: Connection, job: Separate) -> None:
    assert parent.recv() == Cancel(job.job)
    parent.send(done(job))


def finish_when_told(parent: Connection, job: Separate) -> None:
    """By the file ``go-1`` beside the folder for the first job, ``go-2`` for the second, …; or when cancelled."""
    while not beside(f"go-{job.job}").exists():
        if parent.poll(0.02):
            obey_a_cancel(parent, job)
            return
    parent.send(done(job))


def hold(parent: Connection, job: Separate) -> None:
    """The models of all jobs so far, as the real one while there is room."""
    held.add(str(job.model))
    parent.send(LoadedModels(tuple(sorted(held))))
    parent.send(done(job))


held: set[str] = set()


def be_deaf(_parent: Connection, _job: Separate) -> None:
    hang()


def be_late(parent: Connection, job: Separate) -> None:
    """Reports about the job before this one come in between."""
    parent.send(Fatal(job.job - 1, "yesterday's trouble"))
    parent.send(done(job))


def fail(parent: Connection, job: Separate) -> None:
    """With the kind of error that the model's name stands for."""
    parent.send(Failed(job.job, ErrorKind(str(job.model)), ErrorCode.SEPARATION_FAILED, f"{job.model} it is"))


def hang() -> None:
    threading.Event().wait()


BEHAVIOURS: dict[str, Callable[[Connection], None]] = {
    behaviour.__name__: behaviour
    for behaviour in (
        work,
        exit_in_setup,
        refuse_setup,
        find_the_disk_full,
        hang_in_setup,
        get_ready_when_told,
        die_before_the_job,
        stop_before_the_job,
        hang_while_it_loads,
        take_its_time_to_load,
        load_one_model_after_the_other,
    )
} | {
    f"{then.__name__}_in_job": in_job(then)
    for then in (
        die,
        die_if_told,
        stop,
        break_down,
        talk_nonsense,
        obey_a_cancel,
        finish_all_the_same,
        finish_when_told,
        hold,
        be_deaf,
        be_late,
        fail,
    )
}


def sign_in(folder: Path) -> int:
    """How many came before."""
    for number in itertools.count():
        with contextlib.suppress(FileExistsError), (folder / f"{number:03}").open("x") as file:
            file.write(str(os.getpid()))
            return number
    raise AssertionError


def main(folder: Path, *behaviours: str) -> None:
    number = sign_in(folder)
    *_, descriptor = sys.argv
    try:
        BEHAVIOURS[behaviours[min(number, len(behaviours) - 1)]](Connection(int(descriptor)))
    except EOFError:
        sys.exit(0)  # the parent is gone


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:-1])
