"""Download one model file from its address or a mirror, with the same engine as songs."""

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
from pipeline.errors import ErrorCode, PermanentError, TransientError
from pipeline.files import file_sha256, local_errors
from pipeline.progress import TransferRate
from pipeline.service.logs import get_logger, loggable_url
from processor.models.errors import NotServedError
from processor.models.lockfile import Record, record
from processor.models.published_hashes import contradicts_name

if TYPE_CHECKING:
    from config import DownloadSettings

log = get_logger(__name__)

#: The largest of UVR's models has 1.6 GB, and models grow. An address that does not respond is abandoned after seconds.
LIMITS: Final = DownloadLimits(max_bytes=16 * 1024**3, connect_timeout=10.0, stall_timeout=60.0, total_timeout=7200.0)


@dataclass(frozen=True, slots=True)
class ModelDownloads:
    """The settings of model downloads."""

    guard: UrlGuard
    connection_options: ConnectionOptions = DIRECT
    rate: RateLimit | None = None
    limits: DownloadLimits = LIMITS
    cancel: CancelToken = field(default_factory=CancelToken)
    on_progress: Callable[[str, float, TransferRate], None] | None = None
    """Takes the name of a file, the fraction that has arrived (0 to 1) and the present rate."""

    @classmethod
    def from_settings(cls, settings: DownloadSettings) -> ModelDownloads:
        """Create from the settings. The allowlist of hosts for clients does not apply to models.

        Raises ConfigError if this machine does not support a setting.
        """
        return cls(
            guard=UrlGuard.from_settings(settings, any_host=True),
            connection_options=ConnectionOptions.from_settings(settings),
            rate=RateLimit.from_settings(settings),
            limits=replace(LIMITS, max_connections=settings.connections),
        )


def fetch_model_file(
    url: str, target: Path, network: ModelDownloads, *, sha256: str | None, mirrors: tuple[str, ...]
) -> Record:
    """Download the model file with the name of ``target``, and return its record; resume an earlier attempt.

    ``mirrors`` are tried first, but only if ``sha256`` is known: they need not be trusted. If it is not, plain http is
    refused; a redirect from https to http always is. Raises NotServedError if a retry cannot help, TransientError
    (``source_corrupt`` if the content is not the expected one), InfrastructureError and CancelledError. The messages
    name the file and the address.
    """
    name = target.name
    if not sha256 and not url.lower().startswith("https:"):
        raise NotServedError(
            f"the model file {name} is refused from {loggable_url(url)}: without a known SHA-256, only https will do",
            ErrorCode.SOURCE_REFUSED,
        )
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
    except (PermanentError, TransientError) as error:
        message = f"the model file {name} cannot be had from {loggable_url(url)}: {error.message}"
        if isinstance(error, PermanentError):
            raise NotServedError(message, error.code) from error
        raise TransientError(message, code=error.code, retry_after=error.retry_after) from error
    found = done.sha256 or file_sha256(target)
    if found != (sha256 or found) or contradicts_name(name, found):
        with local_errors():
            target.unlink()
        raise TransientError(
            f"the model file {name} from {loggable_url(url)} is not the one that is known: its SHA-256 is {found} "
            f"instead of {sha256 or 'what its name says'}",
            code=ErrorCode.SOURCE_CORRUPT,
        )
    return record(found, done.bytes, done.source or loggable_url(url))
