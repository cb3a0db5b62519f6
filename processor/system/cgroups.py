"""What the control groups say that this process is in: cgroups(7), versions 2 and 1."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

#: Which groups this process is in, and where all of them are.
MEMBERSHIP, TREE = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


def control_files(controller: str, name: str, old_name: str, proc: Path, tree: Path) -> Iterator[Path]:
    """Where the groups that ``proc`` names, and those around them, may have a file of a controller (``memory``).

    ``name``: of the file in version 2; ``old_name``: in version 1.
    """
    with suppress(OSError):
        for controllers, path in re.findall(r"^\d+:([^:]*):(.*)$", proc.read_text(), re.MULTILINE):
            if controllers and controller not in controllers.split(","):
                continue
            root, file = (tree / controller, old_name) if controllers else (tree, name)
            group = root / path.lstrip("/")
            # In a container the path may be the host's, and the group's own files those at the root.
            yield from (folder / file for folder in (group, *group.parents) if folder.is_relative_to(root))
