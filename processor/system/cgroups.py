"""Locate the files of the control groups (cgroups) of this process: cgroups(7), versions 2 and 1."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

#: The list of the groups of this process, and the root of the tree of all groups.
MEMBERSHIP, TREE = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


def control_files(controller: str, name: str, old_name: str, proc: Path, tree: Path) -> Iterator[Path]:
    """Yield the paths at which the groups listed in ``proc``, and their ancestors, may have a controller's file.

    ``controller``: for example ``memory``. ``name``: the file's name in version 2; ``old_name``: in version 1.
    """
    with suppress(OSError):
        for controllers, path in re.findall(r"^\d+:([^:]*):(.*)$", proc.read_text(), re.MULTILINE):
            if controllers and controller not in controllers.split(","):
                continue
            root, file = (tree / controller, old_name) if controllers else (tree, name)
            group = root / path.lstrip("/")
            # In a container the path may be the host's path, while the group's own files are at the root.
            yield from (folder / file for folder in (group, *group.parents) if folder.is_relative_to(root))
