"""Encrypted files can be decrypted only with their key, complete, and under their name."""

from __future__ import annotations

import base64
import io
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config import ModelSettings
from pipeline.errors import ErrorCode, InfrastructureError
from processor.models import DecryptionError
from processor.models.encryption import cipher
from processor.models.encryption.cipher import CHUNK_BYTES, HEADER_BYTES, TAG_BYTES, decrypt, decrypted_size, encrypt
from processor.models.encryption.decrypted_dir import DecryptedDir, remove_leftovers, require_memory
from processor.models.encryption.key import read_key
from tests.processor.models.models_in_memory import memory_folder

KEY = bytes(range(32))


def encrypted(content: bytes, *, key: bytes = KEY, name: str = "model.onnx") -> bytes:
    target = io.BytesIO()
    encrypt(io.BytesIO(content), target, key, name)
    return target.getvalue()


def decrypted(content: bytes, *, key: bytes = KEY, name: str = "model.onnx") -> bytes:
    return b"".join(decrypt(io.BytesIO(content), key, name))


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cipher, "CHUNK_BYTES", 16)


def chunks(content: bytes) -> list[bytes]:
    """Return the chunks of an encrypted file with small chunks."""
    body = content[HEADER_BYTES:]
    return [body[i : i + 16 + TAG_BYTES] for i in range(0, len(body), 16 + TAG_BYTES)]


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES])
def test_decryption_restores_the_content(size: int) -> None:
    content = os.urandom(size)
    result = encrypted(content)
    assert decrypted(result) == content
    assert decrypted_size(len(result)) == size
    assert content[:64] not in result or size < 4


def test_encryption_is_randomised() -> None:
    assert encrypted(b"model")[HEADER_BYTES:] != encrypted(b"model")[HEADER_BYTES:]


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_every_changed_byte_is_detected(data: st.DataObject) -> None:
    result = bytearray(encrypted(b"the weights of a model"))
    result[data.draw(st.integers(0, len(result) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(DecryptionError):
        decrypted(bytes(result))


@pytest.mark.usefixtures("small_chunks")
def test_truncated_file_is_rejected() -> None:
    result = encrypted(bytes(64))
    assert decrypted(result) == bytes(64)
    for length in range(len(result)):
        with pytest.raises(DecryptionError):
            decrypted(result[:length])


@pytest.mark.usefixtures("small_chunks")
def test_moved_missing_and_repeated_chunks_are_rejected() -> None:
    result = encrypted(os.urandom(60))
    header, (a, b, c, d) = result[:HEADER_BYTES], chunks(result)
    assert decrypted(header + a + b + c + d)
    for order in ((b, a, c, d), (a, c, b, d), (a, b, d), (b, c, d), (a, a, b, c, d), (a, b, c, d, d), (d,), ()):
        with pytest.raises(DecryptionError):
            decrypted(header + b"".join(order))


@pytest.mark.usefixtures("small_chunks")
def test_chunks_of_another_file_are_rejected() -> None:
    one, other = encrypted(bytes(64)), encrypted(bytes(64))
    with pytest.raises(DecryptionError):
        decrypted(one[:HEADER_BYTES] + b"".join([*chunks(one)[:2], *chunks(other)[2:]]))


def test_file_under_another_name_is_rejected() -> None:
    with pytest.raises(DecryptionError, match="encrypted under another name"):
        decrypted(encrypted(b"model", name="cheap.onnx"), name="dear.onnx")


def test_wrong_key_and_plain_file_have_their_own_errors() -> None:
    with pytest.raises(DecryptionError, match="encrypted with another key"):
        decrypted(encrypted(b"model"), key=bytes(32))
    with pytest.raises(DecryptionError, match="is not an encrypted file"):
        decrypted(b"a model as it is" * 8)


# --- keys ---


def key_file(folder: Path, content: bytes, mode: int = 0o600) -> ModelSettings:
    path = folder / "key"
    path.write_bytes(content)
    path.chmod(mode)
    return ModelSettings(key_file=path)


@pytest.mark.parametrize("text", [base64.b64encode(KEY), KEY.hex().encode(), KEY.hex().upper().encode() + b"\n"])
def test_key_from_a_file(tmp_path: Path, text: bytes) -> None:
    assert read_key(key_file(tmp_path, text + b"\n")) == KEY


@pytest.mark.parametrize("text", [b"", b"secret", base64.b64encode(KEY[:31]), KEY, base64.b64encode(KEY) + b"!"])
def test_file_without_a_valid_key_is_rejected(tmp_path: Path, text: bytes) -> None:
    with pytest.raises(
        DecryptionError, match="MODEL_KEY_FILE does not give 32 bytes in base64 or hexadecimal"
    ) as caught:
        read_key(key_file(tmp_path, text))
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(("mode", "accepted"), [(0o400, True), (0o440, True), (0o604, False), (0o620, False)])
def test_key_file_with_open_permissions_is_rejected(tmp_path: Path, mode: int, accepted: bool) -> None:
    model_settings = key_file(tmp_path, base64.b64encode(KEY), mode)
    if accepted:
        assert read_key(model_settings) == KEY
        return
    with pytest.raises(DecryptionError, match=f"mode {mode:04o}"):
        read_key(model_settings)


def test_key_from_a_command() -> None:
    program = f"print('{base64.b64encode(KEY).decode()}')"
    assert read_key(ModelSettings(key_command=f'{sys.executable} -c "{program}"')) == KEY


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (f"{sys.executable} -c 'import sys; sys.exit(\"the key is 42\")'", "ended with status 1"),
        ("/no/such/program", "cannot be run: No such file or directory"),
        ("unbalanced 'quote", "cannot be run: ValueError"),
        ("", "set MODEL_KEY_FILE or MODEL_KEY_COMMAND"),
    ],
)
def test_command_without_a_key_is_rejected(command: str, reason: str) -> None:
    with pytest.raises(DecryptionError, match=reason) as caught:
        read_key(ModelSettings(key_command=command))
    assert "42" not in str(caught.value)


def test_missing_key_file_is_reported_without_its_path(tmp_path: Path) -> None:
    with pytest.raises(DecryptionError, match="MODEL_KEY_FILE cannot be read: No such file") as caught:
        read_key(ModelSettings(key_file=tmp_path / "gone"))
    assert str(tmp_path) not in str(caught.value)


# --- decrypted files ---


@pytest.fixture
def memory() -> Iterator[Path]:
    yield from memory_folder()


def test_decrypted_files_are_private_and_removed_afterwards(memory: Path) -> None:
    folder = DecryptedDir(memory)
    with suppress(ZeroDivisionError), folder.filled() as path:
        (path / "model.onnx").write_bytes(b"secret")
        assert path.stat().st_mode & 0o777 == path.parent.stat().st_mode & 0o777 == 0o700
        raise ZeroDivisionError
    assert list(folder.path.iterdir()) == []
    with folder.filled() as again:
        assert again == path
    folder.close()
    assert not folder.path.exists()


def test_only_leftovers_of_killed_processes_are_removed(memory: Path) -> None:
    living, dead = DecryptedDir(memory), DecryptedDir(memory)
    (dead.path / "model.onnx").write_bytes(b"secret")
    os.close(dead._lock)  # as when its process ends
    remove_leftovers(memory)
    assert living.path.exists()
    assert not dead.path.exists()
    living.close()


def test_folder_on_a_disk_is_rejected(tmp_path: Path) -> None:
    for place in (Path("/proc"), tmp_path / "gone"):
        with pytest.raises(DecryptionError, match="MODEL_PLAIN_DIR must be in memory, on a tmpfs"):
            require_memory(place)


def test_folder_with_open_permissions_is_rejected(memory: Path) -> None:
    (memory / f"uvr-models-{os.getuid()}").mkdir(mode=0o755)
    with pytest.raises(DecryptionError, match="belongs to, or is open to, others"):
        DecryptedDir(memory)


def test_symlink_is_rejected(memory: Path, tmp_path: Path) -> None:
    (memory / f"uvr-models-{os.getuid()}").symlink_to(tmp_path)
    with pytest.raises(DecryptionError, match="belongs to, or is open to, others"):
        DecryptedDir(memory)
    assert list(tmp_path.iterdir()) == []


def test_model_larger_than_free_memory_is_rejected(memory: Path) -> None:
    folder = DecryptedDir(memory)
    with pytest.raises(InfrastructureError, match="MODEL_PLAIN_DIR has room for") as caught:
        folder.require_room(1 << 60)
    assert caught.value.code is ErrorCode.DISK_FULL
    folder.close()
