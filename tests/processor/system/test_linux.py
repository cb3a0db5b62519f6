"""What processes of the same user can see of a process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from processor.system.linux import IS_LINUX

REPOSITORY = Path(__file__).resolve().parents[3]

#: Reads the environment of its parent in a child of the same user, before and after the parent has forbidden it.
PROGRAM = """
import os
from processor.system.linux import forbid_inspection, prctl
NOBODY, SET_DUMPABLE = 65534, 4
if os.getuid() == 0:  # root may inspect every process
    os.setgid(NOBODY)
    os.setuid(NOBODY)
    prctl(SET_DUMPABLE, 1)  # a change of the user has cleared it
for forbid in (lambda: None, forbid_inspection):
    forbid()
    reader = os.fork()
    if reader == 0:
        try:
            open(f"/proc/{os.getppid()}/environ", "rb").read()
        except OSError as error:
            print(error.strerror, flush=True)
        else:
            print("read", flush=True)
        os._exit(0)
    os.waitpid(reader, 0)
"""


@pytest.mark.skipif(not IS_LINUX, reason="only Linux has /proc and prctl")
def test_environment_is_hidden_from_processes_of_the_same_user() -> None:
    command = [sys.executable, "-c", PROGRAM]
    finished = subprocess.run(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, timeout=60, check=True)
    assert finished.stdout == "read\nPermission denied\n"
