"""Fetching what a client's URL points at, without being turned against our own network.

``fetch``     ``download``, the one entry; ``terms`` is what it is asked for and gives
``guard/``    which URLs may be talked to
``wire/``     sessions that go to the very address that was checked; deadlines; the boundary of the HTTP libraries
``attempts``  which way is tried: in parts or as a whole, from which of the ``sources``, ``mirrors`` first
``stream``    one file over one connection
``ranged/``   one file in parts, over several; what an interrupted download leaves, and how it is gone on from
``exchange``  one request and its answer, whose head ``response`` reads strictly
``partial``   the file until it is complete; ``checksum`` is what its content has to be
"""

from pipeline.download.checksum import Checksum
from pipeline.download.fetch import download
from pipeline.download.guard.url_guard import UrlGuard
from pipeline.download.progress import DownloadProgress
from pipeline.download.terms import Downloaded, DownloadLimits
from pipeline.download.wire.connection import Wire, guarded_session
from pipeline.download.wire.faults import translated
from pipeline.download.wire.watchdog import Watchdog

__all__ = [
    "Checksum",
    "DownloadLimits",
    "DownloadProgress",
    "Downloaded",
    "UrlGuard",
    "Watchdog",
    "Wire",
    "download",
    "guarded_session",
    "translated",
]
