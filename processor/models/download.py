"""One model file from one address, or from a mirror of it, through the engine that songs come by as well."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from pipeline.cancellation import CancelToken
from pipeline.download import Checksum, ConnectionOptions, DownloadLimits, UrlGuard, download
from pipeline.download.http.rate_limit import RateLimit
from pipeline.download.http.session import DIRECT
from pipeline.download_progress import watch_download
from pipeline.errors import PermanentError, TransientError
from pipeline.files import file_sha256, local_errors
from pipeline.progress import TransferRate
from pipeline.service.logs import get_logger, loggable_url
from processor.models.errors import MismatchError, NotServedError
from processor.models.published_hashes import contradicts_name

if TYPE_CHECKING:
    from config import DownloadSettings

log = get_logger(__name__)

#: The largest of UVR's models has 1.6 GB, and models grow. An address that does not answer is given up in seconds.
LIMITS: Final = DownloadLimits(max_bytes=16 * 1024**3, connect_timeout=10.0, stall_timeout=60.0, total_timeout=7200.0)


@dataclass(frozen=True, slots=True)
class ModelDownloads:
    """How files are fetched."""

    guard: UrlGuard
    connection_options: ConnectionOptions = DIRECT
    rate: RateLimit | None = None
    limits: DownloadLimits = LIMITS
    cancel: CancelToken = field(default_factory=CancelToken)
    on_progress: Callable[[str, float, TransferRate], None] | None = None
    """Takes the name of a file, the fraction that has arrived (0 to 1) and the present rate."""

    @classmethod
    def from_settings(cls, settings: DownloadSettings) -> ModelDownloads:
        """Which hosts clients may name has nothing to do with where models come from.

        Raises ConfigError if the settings ask for what this machine cannot do.
        """
        return cls(
            guard=UrlGuard.from_settings(settings, any_host=True),
            connection_options=ConnectionOptions.from_settings(settings),
            rate=RateLimit.from_settings(settings),
            limits=replace(LIMITS, max_connections=settings.connections),
        )


@dataclass(frozen=True, slots=True)
class FetchedFile:
    """A file that came whole, and is what it has to be."""

    path: Path
    bytes: int
    sha256: str
    source: str
    """The address that it came from, without secrets."""


def fetch_model_file(
    url: str, target: Path, network: ModelDownloads, *, sha256: str | None, mirrors: tuple[str, ...]
) -> FetchedFile:
    """Fetch the model file that ``target`` is named after; what was left of an earlier try is gone on from.

    ``mirrors`` are asked first, if ``sha256`` is known: nobody has to trust them then. Raises NotServedError where
    asking again cannot help, TransientError, InfrastructureError and CancelledError; messages name file and address.
    """
    name = target.name
    try:
        listener = partial(network.on_progress, name) if network.on_progress else None
        with watch_download("model", listener) as transfer:
            done = transfer.done(
                download(
                    url,
                    target,
                    guard=network.guard,
                    limits=network.limits,
                    cancel=network.cancel,
                    on_progress=transfer.progress,
                    connection_options=network.connection_options,
                    mirrors=tuple(f"{mirror}/{quote(name)}" for mirror in mirrors) if sha256 else (),
                    checksum=Checksum("sha256", sha256) if sha256 else None,
                    resume=True,
                    rate=network.rate,
                )
            )
    except PermanentError as error:
        raise NotServedError(_sentence(name, url, error.message), error.code) from error
    except TransientError as error:
        message = _sentence(name, url, error.message)
        raise TransientError(message, code=error.code, retry_after=error.retry_after) from error
    found = done.sha256 or file_sha256(target)
    if found != (sha256 or found) or contradicts_name(name, found):
        with local_errors():
            target.unlink()
        raise MismatchError(name, loggable_url(url), found, sha256 or "what its name says")
    return FetchedFile(target, done.bytes, found, done.source or loggable_url(url))


def _sentence(name: str, url: str, why: str) -> str:
    return f"the model file {name} cannot be had from {loggable_url(url)}: {why}"
