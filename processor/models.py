"""Models on disk: found, or fetched the way audio-separator fetches them, but placed whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import requests

from pipeline.errors import ErrorCode, PermanentError, PipelineError, TransientError
from pipeline.telemetry import get_logger

log = get_logger(__name__)

_INCOMING = ".incoming-"


def ensure_model(name: str, model_dir: Path) -> None:
    """Have the model ``name`` and its description in ``model_dir``.

    Raises PermanentError (code ``model_unknown``) if nobody knows such a model, TransientError (code
    ``model_unavailable``) if it is neither on disk nor can be downloaded now.
    """
    if (model_dir / name).is_file():
        return
    model_dir.mkdir(parents=True, exist_ok=True)
    incoming = Path(tempfile.mkdtemp(prefix=_INCOMING, dir=model_dir))
    try:
        # The lists that are here already say which models there are; they are not fetched again.
        for description in model_dir.glob("*.json"):
            shutil.copy2(description, incoming)
        _download(name, incoming, model_dir)
        _place(incoming, model_dir, last=name)
    finally:
        shutil.rmtree(incoming, ignore_errors=True)
    log.info("model_fetched", model=name)


def _download(name: str, folder: Path, model_dir: Path) -> None:
    from audio_separator.separator import Separator

    try:
        Separator(info_only=True, model_file_dir=str(folder), output_dir=str(folder)).download_model_files(name)
    except ValueError as error:
        raise PermanentError(
            f"there is no model named {name}: it is neither in the model folder nor in the list of known models",
            code=ErrorCode.MODEL_UNKNOWN,
        ) from error
    except (requests.RequestException, RuntimeError, OSError) as error:
        raise unavailable(name, model_dir, error) from error


def _place(incoming: Path, model_dir: Path, last: str) -> None:
    """Move what came in to its place; the file that marks the model as present comes last."""
    for file in sorted(incoming.iterdir(), key=lambda path: path.name == last):
        os.replace(file, model_dir / file.name)


def unavailable(name: str, model_dir: Path, error: BaseException) -> PipelineError:
    """The one sentence for a model that is neither on disk nor downloadable."""
    return TransientError(
        f"the model {name} is not complete in MODEL_FILE_DIR ({model_dir.name}) and cannot be downloaded "
        f"({type(error).__name__}): put its files there, name a model that is there, or allow the download",
        code=ErrorCode.MODEL_UNAVAILABLE,
    )
