"""``python -m pipeline.deadletters``: the former name of ``python -m pipeline.dead_letters``, kept for scripts."""

from __future__ import annotations

import sys

from pipeline.dead_letters.__main__ import main

if __name__ == "__main__":
    sys.exit(main())
