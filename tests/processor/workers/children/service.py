"""``python -m tests.processor.workers.children.service ROOT BEHAVIOUR…``: the processor with scripted children."""

from __future__ import annotations

import sys
from pathlib import Path

from processor.__main__ import exit_process, main
from tests.processor.workers.children import scripted_command

if __name__ == "__main__":
    exit_process(main(scripted_command(Path(sys.argv[1]), *sys.argv[2:])))
