"""Whether a file is still the version that was begun, asked so that the answer comes right after its last bytes.

Parts of a file are all of one version when their answers begin; one that is overwritten while it is sent shows only to
whoever asks once more at the end. The server makes that answer after it has read the last bytes if it arrives after
them: the question itself may be on its way before, so that it costs no time.
"""

from __future__ import annotations

import threading
import time
from typing import Final

from pipeline.download.exchange import Line
from pipeline.download.ranged.pieces import Span
from pipeline.download.ranged.ranges import ask
from pipeline.download.sources import RangesLostError, Source, SourceChangedError
from pipeline.download.wire.watchdog import Branch
from pipeline.errors import PipelineError

#: A connection that has been waiting for so long, s, is given up: the other side may be about to, too.
PATIENCE: Final = 5.0
#: What is asked for, for the sake of the headers.
FIRST_BYTE: Final = Span(0, 1)


class Witness(threading.Thread):
    """Connects at once, and asks when it is told to. To be dismissed."""

    def __init__(self, line: Line, source: Source, total: int) -> None:
        super().__init__(name="download-witness", daemon=True)
        self._line = line
        self.source = source
        self._total = total
        self._told = threading.Event()
        self._dismissed = False
        self._watch: Branch | None = None
        self._answered_at: float | None = None
        self._changed = False

    @property
    def has_answered(self) -> bool:
        """Whether it has, before the end."""
        return self._answered_at is not None

    def ask(self) -> None:
        """Ask now."""
        self._told.set()

    def dismiss(self) -> None:
        """It is not needed (any more)."""
        self._dismissed = True
        self._told.set()
        if self._watch is not None:
            self._watch.give_up()

    def confirms(self, last: float) -> bool:
        """Whether it knows that the file was the same at ``last`` (``time.monotonic``), when the last bytes came.

        Waits for the answer, if it is on its way. Raises SourceChangedError.
        """
        self.ask()
        self.join()
        if self._changed:
            raise SourceChangedError
        return self._answered_at is not None and self._answered_at >= last

    def run(self) -> None:
        """Connect and ask."""
        try:
            with self._line.approach(self.source, self._watched) as approach:
                approach.connect()
                if self._told.wait(PATIENCE) and not self._dismissed:
                    exchange, _ = ask(
                        self._line, self.source, FIRST_BYTE, self._total, verified=False, approach=approach
                    )
                    exchange.close()
                    self._answered_at = time.monotonic()
        except SourceChangedError:
            self._changed = True
        except (RangesLostError, PipelineError):
            pass  # then it does not know

    def _watched(self, watch: Branch) -> None:
        self._watch = watch
        if self._dismissed:  # meanwhile
            watch.give_up()
