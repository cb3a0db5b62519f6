"""One conditional request at the end, which detects a source that changed during the download.

The parts of a file all belong to one version when their responses begin. A file that is overwritten while it is being
sent shows only in a request that the server answers after it has read the last bytes. For a distant source that request
is sent within the last round trip, over a connection opened in advance, so that its answer arrives with the last bytes.
It counts if it arrives after them; otherwise it is repeated once.
"""

from __future__ import annotations

import threading
import time
from contextlib import nullcontext, suppress
from typing import Final

from pipeline.download.http.request import PendingRequest
from pipeline.download.http.watchdog import Cancellation
from pipeline.download.parallel.range_allocator import ByteRange
from pipeline.download.parallel.range_request import RangeClient
from pipeline.download.sources import RangesLostError, Source, SourceChangedError
from pipeline.errors import PermanentError, PipelineError, TransientError

#: The smallest range that can be requested; only the response head matters.
_FIRST_BYTE: Final = ByteRange(0, 1)
#: Round trips before the expected end at which the connection is opened, and at which the request is sent.
_CONNECT_AHEAD: Final = 3.0
_SEND_AHEAD: Final = 0.75


class Revalidation(threading.Thread):
    """Revalidates the version of ``source``. The caller ends it with ``confirm`` or ``cancel``."""

    def __init__(self, client: RangeClient, source: Source, round_trip: float) -> None:
        super().__init__(name="download-revalidation", daemon=True)
        self._client = client
        self._source = source
        self._round_trip = round_trip
        self._cancellation = Cancellation()
        self._due = threading.Event()
        self._finished = threading.Event()
        self._last_byte_at = 0.0
        self._confirmed_until = -1.0
        """Bytes received before this time, on the monotonic clock, belong to the expected version."""
        self._changed = False

    def expect_end(self, seconds: float) -> None:
        """Connect, and later send the request, because the last bytes are expected in so many ``seconds``."""
        if seconds <= _CONNECT_AHEAD * self._round_trip and self.ident is None:
            self.start()
        if seconds <= _SEND_AHEAD * self._round_trip:
            self._due.set()

    def confirm(self, last_byte_at: float) -> None:
        """Raise SourceChangedError if the source has another version than when the last byte arrived.

        A source that cannot answer counts as unchanged. ``last_byte_at``: on the monotonic clock.
        """
        self._last_byte_at = last_byte_at
        self._finished.set()
        self._due.set()
        if self.ident is not None:
            self.join()
        else:
            with suppress(RangesLostError, PermanentError, TransientError):
                self._ask(None)
        self._client.client.watchdog.raise_if_fired()
        if self._changed:
            raise SourceChangedError

    def cancel(self) -> None:
        """Stop now, without a result."""
        self._cancellation.cancel()
        self._finished.set()
        self._due.set()
        if self.ident is not None:
            self.join()

    def run(self) -> None:
        pending = self._client.prepare(self._source, self._cancellation.attach)
        following: PendingRequest | None = None
        with pending, suppress(RangesLostError, PipelineError):
            pending.connect()
            self._due.wait()
            following = self._ask(pending)
        self._finished.wait()
        with following or nullcontext(), suppress(RangesLostError, PipelineError):
            if self._confirmed_until < self._last_byte_at and not self._changed:
                following = self._ask(following)
        if following is not None:
            following.close()

    def _ask(self, pending: PendingRequest | None) -> PendingRequest | None:
        """Request the first byte, on condition that the version is the expected one. Return the next request."""
        if self._cancellation.requested:
            return None
        sent_at = time.monotonic()
        try:
            stream, _ = self._client.request(self._source, _FIRST_BYTE, self._cancellation.attach, pending)
        except SourceChangedError:
            self._changed = True
            return None
        with stream:
            stream.read(_FIRST_BYTE.size)
            # A response that took longer was delayed on its way, so the server may have sent it earlier.
            self._confirmed_until = min(time.monotonic(), sent_at + self._round_trip)
            return stream.next_request()
