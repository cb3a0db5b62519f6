"""Fetching what a client's URL points at, without being turned against our own network.

``syntax``      URLs as strings: plain, or refused
``addresses``   which IP addresses are on the public internet
``guard``       which URLs may be talked to: at the front door, and for every connection
``connection``  HTTP sessions that go to the very address that was checked
``watchdog``    deadlines and cancellation that fire on a blocked socket
``faults``      the boundary where the HTTP libraries' exceptions become ours
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
