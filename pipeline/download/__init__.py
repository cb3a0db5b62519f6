"""Fetching what a client's URL points at, without being turned against our own network.

``guard``       which URLs and addresses may be talked to
``connection``  HTTP connections that go to the very address that was checked
``watchdog``    deadlines and cancellation that fire on a blocked socket
``stream``      one file over one connection
"""

from pipeline.download.connection import Wire, guarded_session
from pipeline.download.faults import translated
from pipeline.download.guard import UrlGuard
from pipeline.download.progress import DownloadProgress
from pipeline.download.stream import Downloaded, DownloadLimits, download
from pipeline.download.watchdog import Watchdog

__all__ = [
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
