"""Stands in for a service that has a child: says that it is there, and waits."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

if __name__ == "__main__":
    # In a group of its own, as the processor's child is.
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", "processor.workers.child"], process_group=0)
    Path("begun").touch()
    time.sleep(60)
