"""Sealed files open with their key, whole and under their name, or not at all."""

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

from pipeline.errors import ErrorCode, InfrastructureError
from processor.models import DecryptionError, StoreOptions
from processor.models.encryption import cipher
from processor.models.encryption.cipher import CHUNK_BYTES, HEADER_BYTES, TAG_BYTES, decrypt, decrypted_size, encrypt
from processor.models.encryption.decrypted_dir import DecryptedDir, remove_leftovers, require_memory
from processor.models.encryption.key import read_key
from tests.processor.models.models_in_memory import memory_folder

KEY = bytes(range(32))


def sealed(content: bytes, *, key: bytes = KEY, name: str = "model.onnx") -> bytes:
    target = io.BytesIO()
    encrypt(io.BytesIO(content), target, key, name)
    return target.getvalue()


def opened(content: bytes, *, key: bytes = KEY, name: str = "model.onnx") -> bytes:
    return b"".join(decrypt(io.BytesIO(content), key, name))


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cipher, "CHUNK_BYTES", 16)


def chunks(content: bytes) -> list[bytes]:
    """The chunks of a sealed file whose chunks are small."""
    body = content[HEADER_BYTES:]
    return [body[i : i + 16 + TAG_BYTES] for i in range(0, len(body), 16 + TAG_BYTES)]


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES])
def test_what_was_sealed_comes_back(size: int) -> None:
    content = os.urandom(size)
    result = sealed(content)
    assert opened(result) == content
    assert decrypted_size(len(result)) == size
    assert content[:64] not in result or size < 4


def test_twice_the_same_is_sealed_differently() -> None:
    assert sealed(b"model")[HEADER_BYTES:] != sealed(b"model")[HEADER_BYTES:]


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_no_changed_byte_goes_unnoticed(data: st.DataObject) -> None:
    result = bytearray(sealed(b"the weights of a model"))
    result[data.draw(st.integers(0, len(result) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(DecryptionError):
        opened(bytes(result))


@pytest.mark.usefixtures("small_chunks")
def test_a_file_that_was_cut_off_does_not_open() -> None:
    result = sealed(bytes(64))
    assert opened(result) == bytes(64)
    for length in range(len(result)):
        with pytest.raises(DecryptionError):
            opened(result[:length])


@pytest.mark.usefixtures("small_chunks")
def test_chunks_that_were_moved_left_out_or_doubled_do_not_open() -> None:
    result = sealed(os.urandom(60))
    header, (a, b, c, d) = result[:HEADER_BYTES], chunks(result)
    assert opened(header + a + b + c + d)
    for order in ((b, a, c, d), (a, c, b, d), (a, b, d), (b, c, d), (a, a, b, c, d), (a, b, c, d, d), (d,), ()):
        with pytest.raises(DecryptionError):
            opened(header + b"".join(order))


@pytest.mark.usefixtures("small_chunks")
def test_chunks_of_another_file_do_not_open() -> None:
    one, other = sealed(bytes(64)), sealed(bytes(64))
    with pytest.raises(DecryptionError):
        opened(one[:HEADER_BYTES] + b"".join([*chunks(one)[:2], *chunks(other)[2:]]))


def test_a_file_opens_under_its_own_name_alone() -> None:
    with pytest.raises(DecryptionError, match="sealed under another name"):
        opened(sealed(b"model", name="cheap.onnx"), name="dear.onnx")


def test_another_key_is_told_from_damage() -> None:
    with pytest.raises(DecryptionError, match="sealed with another key"):
        opened(sealed(b"model"), key=bytes(32))
    with pytest.raises(DecryptionError, match="no sealed file"):
        opened(b"a model as it is" * 8)


# --- keys ---


def key_file(folder: Path, content: bytes, mode: int = 0o600) -> StoreOptions:
    path = folder / "key"
    path.write_bytes(content)
    path.chmod(mode)
    return StoreOptions(key_file=path)


@pytest.mark.parametrize("text", [base64.b64encode(KEY), KEY.hex().encode(), KEY.hex().upper().encode() + b"\n"])
def test_a_key_in_a_file(tmp_path: Path, text: bytes) -> None:
    assert read_key(key_file(tmp_path, text + b"\n")) == KEY


@pytest.mark.parametrize("text", [b"", b"secret", base64.b64encode(KEY[:31]), KEY, base64.b64encode(KEY) + b"!"])
def test_a_file_that_has_no_key_in_it(tmp_path: Path, text: bytes) -> None:
    with pytest.raises(
        DecryptionError, match="MODEL_KEY_FILE does not give 32 bytes in base64 or hexadecimal"
    ) as caught:
        read_key(key_file(tmp_path, text))
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(("mode", "accepted"), [(0o400, True), (0o440, True), (0o604, False), (0o620, False)])
def test_a_key_that_others_can_read_or_change_is_no_key(tmp_path: Path, mode: int, accepted: bool) -> None:
    options = key_file(tmp_path, base64.b64encode(KEY), mode)
    if accepted:
        assert read_key(options) == KEY
        return
    with pytest.raises(DecryptionError, match=f"mode {mode:04o}"):
        read_key(options)


def test_a_key_from_a_command() -> None:
    program = f"print('{base64.b64encode(KEY).decode()}')"
    assert read_key(StoreOptions(key_command=f'{sys.executable} -c "{program}"')) == KEY


@pytest.mark.parametrize(
    ("command", "why"),
    [
        (f"{sys.executable} -c 'import sys; sys.exit(\"the key is 42\")'", "ended with status 1"),
        ("/no/such/program", "cannot be run: No such file or directory"),
        ("unbalanced 'quote", "cannot be run: ValueError"),
        ("", "set MODEL_KEY_FILE or MODEL_KEY_COMMAND"),
    ],
)
def test_a_command_that_gives_no_key(command: str, why: str) -> None:
    with pytest.raises(DecryptionError, match=why) as caught:
        read_key(StoreOptions(key_command=command))
    assert "42" not in str(caught.value)


def test_a_missing_key_file_is_told_without_its_path(tmp_path: Path) -> None:
    with pytest.raises(DecryptionError, match="MODEL_KEY_FILE cannot be read: No such file") as caught:
        read_key(StoreOptions(key_file=tmp_path / "gone"))
    assert str(tmp_path) not in str(caught.value)


# --- where they lie open ---


@pytest.fixture
def memory() -> Iterator[Path]:
    yield from memory_folder()


def test_decrypted_files_are_for_one_user_and_gone_afterwards(memory: Path) -> None:
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


def test_what_a_killed_process_left_is_swept_and_what_a_living_one_has_is_not(memory: Path) -> None:
    living, dead = DecryptedDir(memory), DecryptedDir(memory)
    (dead.path / "model.onnx").write_bytes(b"secret")
    os.close(dead._mine)  # as the end of its process does
    remove_leftovers(memory)
    assert living.path.exists()
    assert not dead.path.exists()
    living.close()


def test_a_disk_is_no_place_for_them(tmp_path: Path) -> None:
    for place in (Path("/proc"), tmp_path / "gone"):
        with pytest.raises(DecryptionError, match="MODEL_PLAIN_DIR must be in memory, on a tmpfs"):
            require_memory(place)


def test_a_folder_of_somebody_elses_is_not_used(memory: Path) -> None:
    (memory / f"uvr-models-{os.getuid()}").mkdir(mode=0o755)
    with pytest.raises(DecryptionError, match="belongs to, or is open to, others"):
        DecryptedDir(memory)


def test_a_link_in_its_place_is_not_followed(memory: Path, tmp_path: Path) -> None:
    (memory / f"uvr-models-{os.getuid()}").symlink_to(tmp_path)
    with pytest.raises(DecryptionError, match="belongs to, or is open to, others"):
        DecryptedDir(memory)
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_memory_has_no_room_for(memory: Path) -> None:
    folder = DecryptedDir(memory)
    with pytest.raises(InfrastructureError, match="MODEL_PLAIN_DIR has room for") as caught:
        folder.require_room(1 << 60)
    assert caught.value.code is ErrorCode.DISK_FULL
    folder.close()
