"""Sealed files: a model under licence as it may lie on a disk.

    file    = header, chunk, chunk …
    header  = magic (8 bytes), key id (8 bytes), salt (32 bytes)
    chunk   = AES-256-GCM of up to 1 MiB, with its tag (16 bytes)

Each file has a key of its own, HKDF-SHA256 of the key and the random salt; a chunk's nonce is its number (11 bytes) and
whether it is the last (1 byte). This is the STREAM construction of Hoang, Reyhanitabar, Rogaway and Vizár ("Online
Authenticated-Encryption and its Nonce-Reuse Misuse-Resistance", 2015), as in age and Tink: a file that was cut off,
continued, reordered or put together from others does not open. The header and the file's name are authenticated with
every chunk, so that one model cannot be passed off as another.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import BinaryIO

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from processor.models.errors import DecryptionError
from processor.models.options import SUFFIX

MAGIC = b"UVRSEAL\x01"
CHUNK_BYTES = 1024**2
TAG_BYTES = 16
_ID_BYTES = 8
_SALT_BYTES = 32
HEADER_BYTES = len(MAGIC) + _ID_BYTES + _SALT_BYTES


def encrypt(source: BinaryIO, target: BinaryIO, key: bytes, name: str) -> None:
    """Write ``source``, to its end, as the sealed form of the file ``name``. Raises OSError."""
    salt = os.urandom(_SALT_BYTES)
    header = MAGIC + key_id(key) + salt
    cipher = AESGCM(_derived(key, b"file", salt))
    target.write(header)
    for nonce, chunk in _numbered(source, CHUNK_BYTES):
        target.write(cipher.encrypt(nonce, chunk, header + name.encode()))


def decrypt(source: BinaryIO, key: bytes, name: str) -> Iterator[bytes]:
    """The content of the sealed file ``name``, in chunks. It is complete and unchanged only if the iterator ends.

    Raises SealError if it was sealed with another key, or is not what was sealed under this name, and OSError.
    """
    header = source.read(HEADER_BYTES)
    if len(header) < HEADER_BYTES or not header.startswith(MAGIC):
        raise DecryptionError(f"{name}{SUFFIX} is no sealed file, or only the beginning of one")
    if header[len(MAGIC) : -_SALT_BYTES] != key_id(key):
        raise DecryptionError(f"{name}{SUFFIX} was sealed with another key")
    cipher = AESGCM(_derived(key, b"file", header[-_SALT_BYTES:]))
    for nonce, chunk in _numbered(source, CHUNK_BYTES + TAG_BYTES):
        try:
            yield cipher.decrypt(nonce, chunk, header + name.encode())
        except InvalidTag:
            raise DecryptionError(f"{name}{SUFFIX} is damaged, cut off, or was sealed under another name") from None


def key_id(key: bytes) -> bytes:
    """Tells keys from each other and nothing about them."""
    return _derived(key, b"key id", b"")[:_ID_BYTES]


def decrypted_size(sealed_bytes: int) -> int:
    """How large the content of a sealed file of this size is."""
    body = sealed_bytes - HEADER_BYTES
    return max(body - TAG_BYTES * -(-body // (CHUNK_BYTES + TAG_BYTES)), 0)


def _derived(key: bytes, purpose: bytes, salt: bytes) -> bytes:
    return HKDF(SHA256(), length=32, salt=salt, info=b"uvr-api sealed model 1: " + purpose).derive(key)


def _numbered(source: BinaryIO, size: int) -> Iterator[tuple[bytes, bytes]]:
    """Nonce and content of each chunk; there is always a last one, if need be an empty one."""
    number, chunk = 0, source.read(size)
    while following := source.read(size):
        yield number.to_bytes(11) + b"\0", chunk
        number, chunk = number + 1, following
    yield number.to_bytes(11) + b"\1", chunk
