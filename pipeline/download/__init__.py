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
from pipeline.download.download import download
from pipeline.download.http.errors import http_errors
from pipeline.download.http.session import ConnectionOptions, guarded_session
from pipeline.download.http.watchdog import Watchdog
from pipeline.download.progress import DownloadProgress
from pipeline.download.ssrf.url_guard import UrlGuard
from pipeline.download.types import Downloaded, DownloadLimits

__all__ = [
    "Checksum",
    "ConnectionOptions",
    "DownloadLimits",
    "DownloadProgress",
    "Downloaded",
    "UrlGuard",
    "Watchdog",
    "download",
    "guarded_session",
    "http_errors",
]
