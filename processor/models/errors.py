"""The errors of model files: some sentences are for the operator, some are fit for a client."""

from __future__ import annotations

import errno
import pickle
from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.errors import ErrorCode, PermanentError, PipelineError, TransientError
from pipeline.service.logs import get_logger
from processor.system.oom import cause_chain, is_device_error, is_out_of_memory

log = get_logger(__name__)


class NotServedError(RuntimeError):
    """An address does not serve the file. On a RuntimeError, audio-separator tries another address."""

    def __init__(self, message: str, code: ErrorCode) -> None:
        super().__init__(message)
        self.code = code


class OfflineError(TransientError):
    """The file is missing, and MODEL_OFFLINE forbids downloading it."""

    def __init__(self, name: str, address: str) -> None:
        super().__init__(
            f"the model file {name} is not in MODEL_FILE_DIR, and MODEL_OFFLINE forbids fetching it from {address}: "
            "put it there",
            code=ErrorCode.MODEL_UNAVAILABLE,
        )


class DecryptionError(TransientError):
    """Encryption or decryption is not possible: because of the key, the folder for decrypted files, or the file."""

    def __init__(self, message: str) -> None:
        super().__init__(message, code=ErrorCode.MODEL_UNAVAILABLE)


def unknown_model(name: str) -> PermanentError:
    """Return the error for a model that no list has."""
    return PermanentError(f"there is no model named {name}: no list of models has it", code=ErrorCode.MODEL_UNKNOWN)


@contextmanager
def load_errors(name: str) -> Iterator[None]:
    """Translate the exceptions of downloading and loading the model ``name`` into errors with sentences for the client.

    The log has the details. Raises TransientError for what may be different later, PermanentError (``model_invalid``)
    for all that the libraries refuse, because they would refuse the same files again. A PipelineError of another kind
    passes unchanged, as does a failure of the device.
    """
    try:
        yield
    except DecryptionError as error:
        log.error("model_not_opened", model=name, error=error.message)
        message = f"the model {name} is encrypted and cannot be opened here: the log says why"
        raise TransientError(message, code=ErrorCode.MODEL_UNAVAILABLE) from error
    except (NotServedError, TransientError) as error:
        log.error("model_not_fetched", model=name, error=str(error))
        reason = "MODEL_OFFLINE is set" if isinstance(error, OfflineError) else error.code.replace("_", " ")
        raise TransientError(
            f"the model {name} is not complete in MODEL_FILE_DIR and cannot be downloaded ({reason}): put "
            "its files there, let MODEL_NAME name a model that is there, or allow the download",
            code=ErrorCode.MODEL_UNAVAILABLE,
        ) from error
    except PipelineError:
        raise
    except (Exception, SystemExit) as error:  # the library exits the process if a checkpoint is corrupt
        log.error("model_load_failed", model=name, error=repr(error))
        if is_out_of_memory(error):
            message = f"there is not enough memory to load the model {name}"
            raise TransientError(message, code=ErrorCode.OUT_OF_MEMORY) from error
        if is_device_error(error):
            raise
        # Reading beyond the end of a truncated file is an invalid argument for the system.
        if any(isinstance(cause, OSError) and cause.errno not in (None, errno.EINVAL) for cause in cause_chain(error)):
            message = f"the files of the model {name} cannot be read"
            raise TransientError(message, code=ErrorCode.MODEL_UNAVAILABLE) from error
        raise PermanentError(f"the model {name} {_defect(error)}", code=ErrorCode.MODEL_INVALID) from error


def _defect(error: BaseException) -> str:
    """Return what is wrong with the files of a model, for a client and for the operator."""
    chain = list(cause_chain(error))
    if any(isinstance(cause, pickle.UnpicklingError) and "unsupported global" in str(cause).lower() for cause in chain):
        return "is refused: its file contains other things than weights, which could run code when it is loaded"
    if any("Error(s) in loading state_dict" in str(cause) for cause in chain):
        return "cannot be loaded: its weights are not those of the network that its parameters describe"
    return (
        f"cannot be loaded ({type(chain[-1]).__name__}): its files are damaged, incomplete or of a kind that is not "
        "supported; if they are damaged, remove them from MODEL_FILE_DIR to have them downloaded again"
    )
