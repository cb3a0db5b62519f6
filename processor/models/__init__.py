"""Models: the catalogue, the download and storage of their files, and their access by audio-separator.

``catalogue``   the available models, their files and addresses (``model_lists``, ``lists/``, ``published_hashes``,
                ``known.json``)
``store``       the folder of files: each one downloaded once, complete or not at all, by one process (``file_lock``)
``download``    one file through the download engine
``lockfile``    the hash of each file when it was first downloaded
``encryption``  licensed files, encrypted on the disk (``cipher``, ``key``) and decrypted in memory (``decrypted_dir``)
``presets``     the ensembles that audio-separator has names for
``maintenance`` verify and prune
``commands``    ``python -m processor.models``
"""

from processor.models.download import ModelDownloads
from processor.models.errors import DecryptionError, NotServedError, OfflineError, load_errors
from processor.models.store import ModelStore

__all__ = [
    "DecryptionError",
    "ModelDownloads",
    "ModelStore",
    "NotServedError",
    "OfflineError",
    "load_errors",
]
