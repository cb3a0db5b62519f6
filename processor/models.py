"""How model files arrive: audio-separator knows what a model consists of; a file appears whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from pipeline.cancel import CancelToken
from pipeline.download import DownloadLimits, UrlGuard, download
from pipeline.errors import ErrorCode, PermanentError, TransientError
from pipeline.files import local_errors, sync_directory, sync_file
from pipeline.telemetry import get_logger

log = get_logger(__name__)

#: The largest of UVR's models has 1.6 GB, and models grow. An address that does not answer is given up in seconds.
LIMITS = DownloadLimits(max_bytes=16 * 1024**3, connect_timeout=10.0, stall_timeout=60.0, total_timeout=7200.0)

_INCOMING = ".incoming-"
#: Files that came in and were not put in their place for so long (s) were left by a process that died.
_STALE = 86_400.0


class NotServedError(RuntimeError):
    """An address does not serve the file. audio-separator takes a RuntimeError as the sign to try another one."""

    def __init__(self, error: PermanentError) -> None:
        super().__init__(error.message)
        self.code = error.code


def fetch(url: str, path: str, guard: UrlGuard) -> None:
    """Have the file ``path``: download it from ``url`` unless it is there. The folder of ``path`` must exist.

    Raises NotServedError where asking again cannot help, TransientError, InfrastructureError.
    """
    target = Path(path)
    if target.is_file():
        return
    _sweep(target.parent)
    with local_errors():
        incoming = Path(tempfile.mkdtemp(prefix=_INCOMING, dir=target.parent))
    try:
        arrived = download(url, incoming / "file", guard=guard, limits=LIMITS, cancel=CancelToken()).path
        with local_errors():
            sync_file(arrived)
            os.replace(arrived, target)
            sync_directory(target.parent)
    except PermanentError as error:
        raise NotServedError(error) from error
    finally:
        shutil.rmtree(incoming, ignore_errors=True)
    log.info("model_file_fetched", file=target.name)


def _sweep(folder: Path) -> None:
    oldest = time.time() - _STALE
    for incoming in folder.glob(f"{_INCOMING}*"):
        with suppress(OSError):
            if incoming.stat().st_mtime < oldest:
                shutil.rmtree(incoming)
                log.info("stale_model_file_removed", folder=incoming.name)


def unknown(name: str) -> PermanentError:
    """There is no such model."""
    return PermanentError(f"there is no model named {name}: no list of models has it", code=ErrorCode.MODEL_UNKNOWN)


def missing(name: str, why: ErrorCode) -> TransientError:
    """The one sentence for a model that is neither on disk nor can be downloaded."""
    return TransientError(
        f"the model {name} is not complete in MODEL_FILE_DIR and cannot be downloaded ({why.replace('_', ' ')}): put "
        "its files there, let MODEL_NAME name a model that is there, or allow the download",
        code=ErrorCode.MODEL_UNAVAILABLE,
    )


def unreadable(name: str, error: BaseException) -> TransientError:
    """The one sentence for a model that is on disk and cannot be loaded."""
    return TransientError(
        f"the model {name} cannot be loaded ({type(error).__name__}): if its files in MODEL_FILE_DIR are damaged, "
        "remove them to have them fetched again",
        code=ErrorCode.MODEL_UNAVAILABLE,
    )
