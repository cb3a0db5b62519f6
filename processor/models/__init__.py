"""Models: which there are, how their files arrive and are kept, and how audio-separator gets at them.

``catalogue``   which models there are, of which files, from where (``sources``, ``published``, ``known.json``)
``store``       the folder of files: fetched once, whole or not at all, by one process at a time (``locking``)
``transfer``    one file through the download engine
``lockfile``    what each file was when it first came in
``vault``       files under licence, encrypted (``sealing``, ``keys``) and opened in memory (``plain``)
``presets``     ensembles that audio-separator has names for
``upkeep``      verify and prune
``commands``    ``python -m processor.models``
"""

from processor.models.download import ModelDownloads
from processor.models.errors import DecryptionError, NotServedError, OfflineError, load_errors, unknown_model
from processor.models.options import StoreOptions
from processor.models.store import ModelStore

__all__ = [
    "DecryptionError",
    "ModelDownloads",
    "ModelStore",
    "NotServedError",
    "OfflineError",
    "StoreOptions",
    "load_errors",
    "unknown_model",
]
