"""Downloads from URLs that clients supply, protected against server-side request forgery (SSRF).

``download``       the entry point; ``types`` has its limits and its result
``strategy``       chooses between range requests and one stream, and between the ``sources``
``single_stream``  one file over one connection
``parallel/``      one file over several connections
``resume``         continues an interrupted download; ``journal`` records which bytes are on the disk
``ssrf/``          which URLs and addresses are allowed
``http/``          sessions that connect to the checked address, requests, deadlines, and translated exceptions
``part_file``      the file until it is complete; ``checksum`` verifies its content
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
