"""What can go wrong with a model's files, in sentences: some for the operator, some fit for a client."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.errors import ErrorCode, PermanentError, PipelineError, TransientError
from pipeline.service.logs import get_logger
from processor.system.oom import is_out_of_memory

log = get_logger(__name__)


class NotServedError(RuntimeError):
    """An address does not serve the file. audio-separator takes a RuntimeError as the sign to try another one."""

    def __init__(self, message: str, code: ErrorCode) -> None:
        super().__init__(message)
        self.code = code


class OfflineError(TransientError):
    """The file is not there, and MODEL_OFFLINE forbids fetching it."""

    def __init__(self, name: str, address: str) -> None:
        super().__init__(
            f"the model file {name} is not in MODEL_FILE_DIR, and MODEL_OFFLINE forbids fetching it from {address}: "
            "put it there",
            code=ErrorCode.MODEL_UNAVAILABLE,
        )


class MismatchError(TransientError):
    """The content of a file is not the one that is known for it."""

    def __init__(self, name: str, address: str, found: str, expected: str) -> None:
        super().__init__(
            f"the model file {name} from {address} is not the one that is known: its SHA-256 is {found} instead of "
            f"{expected}",
            code=ErrorCode.SOURCE_CORRUPT,
        )


class DecryptionError(TransientError):
    """A sealed file cannot be opened, or none can be made: the key, the folder for plain files, or the file itself."""

    def __init__(self, message: str) -> None:
        super().__init__(message, code=ErrorCode.MODEL_UNAVAILABLE)


def unknown_model(name: str) -> PermanentError:
    """There is no such model."""
    return PermanentError(f"there is no model named {name}: no list of models has it", code=ErrorCode.MODEL_UNKNOWN)


def missing_file(name: str, error: NotServedError | TransientError) -> TransientError:
    """The one sentence for a model that is neither on disk nor can be downloaded; fit for a client."""
    why = "MODEL_OFFLINE is set" if isinstance(error, OfflineError) else error.code.replace("_", " ")
    return TransientError(
        f"the model {name} is not complete in MODEL_FILE_DIR and cannot be downloaded ({why}): put "
        "its files there, let MODEL_NAME name a model that is there, or allow the download",
        code=ErrorCode.MODEL_UNAVAILABLE,
    )


def closed(name: str) -> TransientError:
    """The one sentence for a model that is on disk, sealed, and cannot be opened; fit for a client."""
    return TransientError(
        f"the model {name} is encrypted and cannot be opened here: the log says why", code=ErrorCode.MODEL_UNAVAILABLE
    )


def unreadable(name: str, error: BaseException) -> TransientError:
    """The one sentence for a model that is on disk and cannot be loaded; fit for a client."""
    return TransientError(
        f"the model {name} cannot be loaded ({type(error).__name__}): if its files in MODEL_FILE_DIR are damaged, "
        "remove them to have them fetched again",
        code=ErrorCode.MODEL_UNAVAILABLE,
    )


def model_too_large(name: str) -> TransientError:
    """The one sentence for a model for which there is not enough memory; fit for a client."""
    return TransientError(f"there is not enough memory to load the model {name}", code=ErrorCode.OUT_OF_MEMORY)


@contextmanager
def load_errors(name: str) -> Iterator[None]:
    """The boundary between what the fetching and loading of a model raises and ours."""
    try:
        yield
    except DecryptionError as error:
        log.error("model_not_opened", model=name, error=error.message)
        raise closed(name) from error
    except (NotServedError, TransientError) as error:
        log.error("model_not_fetched", model=name, error=str(error))
        raise missing_file(name, error) from error
    except PipelineError:
        raise
    except (Exception, SystemExit) as error:  # the library ends the process over a corrupt checkpoint
        log.error("model_load_failed", model=name, error=repr(error))
        raise (model_too_large(name) if is_out_of_memory(error) else unreadable(name, error)) from error
