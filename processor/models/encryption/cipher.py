"""The format of encrypted ("sealed") files, in which licensed models are stored on a disk.

    file    = header, chunk, chunk …
    header  = magic (8 bytes), key id (8 bytes), salt (32 bytes)
    chunk   = AES-256-GCM of up to 1 MiB, with its tag (16 bytes)

Each file has its own key, HKDF-SHA256 of the key and the random salt. A chunk's nonce is its number (11 bytes) and a
flag for the last chunk (1 byte). This is the STREAM construction of Hoang, Reyhanitabar, Rogaway and Vizár ("Online
Authenticated-Encryption and its Nonce-Reuse Misuse-Resistance", 2015), as in age and Tink: a file that was cut off,
extended, reordered or assembled from others is rejected. The header and the file's name are authenticated with every
chunk, so that one model cannot be substituted for another.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import BinaryIO

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from processor.models.encryption import SUFFIX
from processor.models.errors import DecryptionError

MAGIC = b"UVRSEAL\x01"
CHUNK_BYTES = 1024**2
TAG_BYTES = 16
_ID_BYTES = 8
_SALT_BYTES = 32
HEADER_BYTES = len(MAGIC) + _ID_BYTES + _SALT_BYTES


def encrypt(source: BinaryIO, target: BinaryIO, key: bytes, name: str) -> None:
    """Encrypt ``source``, to its end, into ``target`` as the file ``name``. Raises OSError."""
    salt = os.urandom(_SALT_BYTES)
    header = MAGIC + key_id(key) + salt
    cipher = AESGCM(_derive(key, b"file", salt))
    target.write(header)
    for nonce, chunk in _numbered(source, CHUNK_BYTES):
        target.write(cipher.encrypt(nonce, chunk, header + name.encode()))


def decrypt(source: BinaryIO, key: bytes, name: str) -> Iterator[bytes]:
    """Yield the content of the encrypted file ``name`` in chunks. It is verified only once the iterator ends.

    Raises DecryptionError if the key, the name or the content is not that of the encryption, and OSError.
    """
    header = source.read(HEADER_BYTES)
    if len(header) < HEADER_BYTES or not header.startswith(MAGIC):
        raise DecryptionError(f"{name}{SUFFIX} is not an encrypted file, or is cut off")
    if header[len(MAGIC) : -_SALT_BYTES] != key_id(key):
        raise DecryptionError(f"{name}{SUFFIX} was encrypted with another key")
    cipher = AESGCM(_derive(key, b"file", header[-_SALT_BYTES:]))
    for nonce, chunk in _numbered(source, CHUNK_BYTES + TAG_BYTES):
        try:
            yield cipher.decrypt(nonce, chunk, header + name.encode())
        except InvalidTag:
            raise DecryptionError(f"{name}{SUFFIX} is damaged, cut off, or was encrypted under another name") from None


def key_id(key: bytes) -> bytes:
    """Return an identifier of the key that reveals nothing about it."""
    return _derive(key, b"key id", b"")[:_ID_BYTES]


def decrypted_size(sealed_bytes: int) -> int:
    """Return the size of the content of an encrypted file, bytes."""
    body = sealed_bytes - HEADER_BYTES
    return max(body - TAG_BYTES * -(-body // (CHUNK_BYTES + TAG_BYTES)), 0)


def _derive(key: bytes, purpose: bytes, salt: bytes) -> bytes:
    return HKDF(SHA256(), length=32, salt=salt, info=b"uvr-api sealed model 1: " + purpose).derive(key)


def _numbered(source: BinaryIO, size: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield the nonce and the content of each chunk. There is always a last chunk, which may be empty."""
    number, chunk = 0, source.read(size)
    while following := source.read(size):
        yield number.to_bytes(11) + b"\0", chunk
        number, chunk = number + 1, following
    yield number.to_bytes(11) + b"\1", chunk
