"""Search for secrets that were committed: ``python -m scripts.secret_scan [--history]``.

Kingfisher searches the tracked files or, with ``--history``, every version of every file in the repository. It asks no
server whether a secret is valid, and its report shows none. Exit status: 0 no findings, 1 findings.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from scripts.tracked import ROOT, tracked_files

_KINGFISHER = Path(sys.executable).with_name("kingfisher")
#: What looks like a secret and is none: the placeholders of a printed curl command.
_PLACEHOLDERS = (r"\{username\}:\{password\}",)


def scan(root: Path, *, history: bool) -> int:
    """Search the checkout at ``root`` and print the findings. Return the exit status.

    Raises CalledProcessError outside a Git checkout, or if the search fails.
    """
    options = ["--quiet", "--redact", "--no-validate", "--no-update-check", "--no-extract-archives"]
    options += [f"--skip-regex={pattern}" for pattern in _PLACEHOLDERS]
    if history:
        command = ["git", "rev-parse", "--path-format=absolute", "--git-common-dir"]
        where = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout.splitlines()
    else:
        options.append("--git-history=none")
        where = [str(path) for path in tracked_files(root)]
    status = subprocess.run([_KINGFISHER, "scan", *options, *where], cwd=root, check=False).returncode
    if status not in (0, 200, 205):
        raise subprocess.CalledProcessError(status, "kingfisher")
    return int(status != 0)


if __name__ == "__main__":
    sys.exit(scan(ROOT, history="--history" in sys.argv))
