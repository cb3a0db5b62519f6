"""Encrypted model files: AES-256-GCM on the disk, decrypted in memory while a model is loaded."""

from typing import Final

#: The suffix of the names of encrypted ("sealed") files.
SUFFIX: Final = ".sealed"
