"""Replaces a service with a child process: signals that it runs, and waits."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

if __name__ == "__main__":
    # In its own process group, like the processor's child.
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", "processor.workers.child"], process_group=0)
    Path("begun").touch()
    time.sleep(60)
