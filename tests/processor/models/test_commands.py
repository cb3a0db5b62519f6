"""``python -m processor.models``, command by command."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from demo.tiny_models import list_demucs
from processor.models import DecryptionError
from processor.models.commands import ModelCommands, ModelsExit
from processor.models.file_lock import exclusive_lock
from processor.models.lockfile import LOCK_FILE, LockFile
from processor.models.model_lists import LISTS, UVR_LIST
from processor.models.store import INCOMING
from tests.processor.models.model_source import SecureSource, served, visible
from tests.processor.models.models_in_memory import memory_folder

REPOSITORY = Path(__file__).resolve().parents[3]
WEIGHTS = os.urandom(100_000)
WEIGHTS_NAME = f"abcd1234-{hashlib.sha256(WEIGHTS).hexdigest()[:8]}.th"
YAML = b"models: ['abcd1234']\n"
MODEL = "tiny.yaml"
#: The models of audio-separator's preset ``vocal_full``.
VOCAL_FULL = ("bs_roformer_vocals_revive_v3e_unwa", "mel_band_roformer_vocals_becruily")


@pytest.fixture(autouse=True)
def _serve(source: SecureSource) -> None:
    source.add(f"/{WEIGHTS_NAME}", served(WEIGHTS))
    source.add(f"/{MODEL}", served(YAML))


@pytest.fixture
def memory() -> Iterator[Path]:
    yield from memory_folder()


@pytest.fixture
def folder(tmp_path: Path, source: SecureSource) -> Path:
    """Return a folder with a list of one model, whose files are on the server."""
    list_demucs(tmp_path, MODEL, WEIGHTS_NAME, source.url(""))
    return tmp_path


@dataclass
class Terminal:
    """Runs commands and reads their output."""

    folder: Path
    source: SecureSource
    capture: pytest.CaptureFixture[str]

    def commands(self, *, as_json: bool = True, **options: Any) -> ModelCommands:
        return ModelCommands(self.source.store(self.folder, **options), MODEL, as_json)

    def rows(self) -> list[dict[str, Any]]:
        """Return the JSON output of the last command, which follows the lines of the log."""
        lines = self.capture.readouterr().out.splitlines()
        start = next(number for number, line in enumerate(lines) if line in ("[", "[]"))
        return list(json.loads("\n".join(lines[start:])))

    def states(self) -> dict[str, str]:
        """Return the state of each file in the last command's output."""
        return {row["file"]: row["state"] for row in self.rows()}


@pytest.fixture
def terminal(folder: Path, source: SecureSource, capsys: pytest.CaptureFixture[str]) -> Terminal:
    return Terminal(folder, source, capsys)


def pull(terminal: Terminal, **options: Any) -> ModelsExit:
    return terminal.commands(**options).pull([MODEL], (), update=False)


def verify(terminal: Terminal, *names: str, repair: bool = False, adopt: bool = False, **options: Any) -> ModelsExit:
    return terminal.commands(**options).verify(names, repair=repair, adopt=adopt)


def test_pull_list_and_verify(terminal: Terminal) -> None:
    assert pull(terminal) is ModelsExit.OK
    assert terminal.states() == {MODEL: "fetched", WEIGHTS_NAME: "fetched"}
    assert pull(terminal) is ModelsExit.OK
    assert terminal.states() == {MODEL: "present", WEIGHTS_NAME: "present"}

    terminal.commands().list(["Demucs"], present=True)
    (row,) = terminal.rows()
    assert (row["name"], row["state"], row["bytes"]) == (MODEL, "present", len(WEIGHTS))
    assert {file["known_from"] for file in row["files"]} == {LOCK_FILE}

    assert verify(terminal, MODEL) is ModelsExit.OK
    assert terminal.states() == {MODEL: "ok", WEIGHTS_NAME: "ok"}


def test_list_as_a_table(terminal: Terminal) -> None:
    assert terminal.commands(as_json=False).list(["Demucs"], present=False) is ModelsExit.OK
    heading, *_, last = terminal.capture.readouterr().out.splitlines()
    assert heading == "NAME              KIND    SIZE      STATE   LICENCE       STEMS"
    assert last == "tiny.yaml         Demucs  -         absent  MIT (Demucs)  -"


def test_all_models_of_an_architecture_are_pulled(terminal: Terminal) -> None:
    assert terminal.commands(offline=True).pull([], ["Demucs"], update=False) is ModelsExit.UNAVAILABLE
    states = terminal.states()
    assert {MODEL, WEIGHTS_NAME, "htdemucs.yaml", "955717e8-8726e21a.th"} <= states.keys()
    assert set(states.values()) == {"failed"}


def test_unknown_model_is_reported_and_the_others_are_pulled(terminal: Terminal) -> None:
    assert terminal.commands().pull(["nothing.onnx", MODEL], (), update=False) is ModelsExit.UNKNOWN
    output = terminal.capture.readouterr()
    assert "there is no model named nothing.onnx" in output.err
    assert WEIGHTS_NAME in output.out


def test_preset_is_expanded_to_its_models(terminal: Terminal) -> None:
    assert verify(terminal, "vocal_full") is ModelsExit.DAMAGED
    states = terminal.states()
    assert {f"{name}.ckpt" for name in VOCAL_FULL} <= states.keys()
    assert {states[f"{name}.ckpt"] for name in VOCAL_FULL} == {"missing"}


def test_missing_file_is_reported_and_the_others_are_pulled(terminal: Terminal, source: SecureSource) -> None:
    source.add(f"/{WEIGHTS_NAME}", lambda exchange: exchange.respond(404))
    assert pull(terminal) is ModelsExit.UNAVAILABLE
    rows = {row["file"]: row for row in terminal.rows()}
    assert rows[MODEL]["state"] == "fetched"
    assert rows[WEIGHTS_NAME]["state"] == "failed"
    assert WEIGHTS_NAME in rows[WEIGHTS_NAME]["detail"]
    assert source.url(f"/{WEIGHTS_NAME}") in rows[WEIGHTS_NAME]["detail"]


def test_damaged_and_missing_files_are_repaired(terminal: Terminal) -> None:
    pull(terminal)
    weights = terminal.folder / WEIGHTS_NAME
    weights.write_bytes(WEIGHTS[:-1] + b"!")
    (terminal.folder / MODEL).unlink()
    terminal.states()

    assert verify(terminal, MODEL) is ModelsExit.DAMAGED
    assert terminal.states() == {MODEL: "missing", WEIGHTS_NAME: "damaged"}
    assert verify(terminal, MODEL, repair=True) is ModelsExit.OK
    assert terminal.states() == {MODEL: "repaired", WEIGHTS_NAME: "repaired"}
    assert weights.read_bytes() == WEIGHTS
    assert verify(terminal) is ModelsExit.OK


def test_failed_repair_keeps_the_file(terminal: Terminal, source: SecureSource) -> None:
    pull(terminal)
    (terminal.folder / MODEL).write_bytes(b"models: []")
    source.add(f"/{MODEL}", served(b"models: [other]"))
    terminal.states()
    assert verify(terminal, repair=True) is ModelsExit.DAMAGED
    assert terminal.states()[MODEL] == "damaged"
    assert (terminal.folder / MODEL).read_bytes() == b"models: []"


def test_manually_installed_file_can_be_recorded(terminal: Terminal) -> None:
    (terminal.folder / MODEL).write_bytes(YAML)
    assert verify(terminal) is ModelsExit.OK
    assert terminal.states()[MODEL] == "unknown"
    assert verify(terminal, adopt=True) is ModelsExit.OK
    assert terminal.states()[MODEL] == "recorded"
    assert LockFile(terminal.folder).records()[MODEL].sha256 == hashlib.sha256(YAML).hexdigest()
    (terminal.folder / MODEL).write_bytes(b"changed")
    assert verify(terminal) is ModelsExit.DAMAGED


def test_update_accepts_new_content(terminal: Terminal, source: SecureSource) -> None:
    pull(terminal)
    terminal.states()
    source.add(f"/{MODEL}", served(YAML + b"# new"))

    assert terminal.commands().pull([MODEL], (), update=True) is ModelsExit.OK

    assert set(terminal.states().values()) == {"fetched"}
    assert (terminal.folder / MODEL).read_bytes() == YAML + b"# new"
    assert verify(terminal) is ModelsExit.OK


def test_lists_are_downloaded_on_request_only(
    terminal: Terminal, source: SecureSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("processor.models.commands.LISTS", {UVR_LIST: ""})
    monkeypatch.setattr("processor.models.model_lists.LISTS", {UVR_LIST: source.url(f"/{UVR_LIST}")})
    lists = {"vr_download_list": {"VR Arch Single Model v5: new": "new.pth"}}
    source.add(f"/{UVR_LIST}", served(json.dumps(lists).encode()))
    assert terminal.commands().pull(["new.pth"], (), update=False) is ModelsExit.UNKNOWN
    assert source.connections == 0

    assert terminal.commands().update_lists() is ModelsExit.OK
    assert terminal.commands(offline=True).pull(["new.pth"], (), update=False) is ModelsExit.UNAVAILABLE


# --- prune ---


@pytest.fixture
def littered(terminal: Terminal) -> Terminal:
    pull(terminal)
    folder = terminal.folder
    for name in ("old.onnx", "old.ckpt.sealed", "README.md", "notes.yaml.bak"):
        (folder / name).write_bytes(b"x")
    (folder / INCOMING).mkdir()
    (folder / INCOMING / "gone.onnx.part").write_bytes(b"half a model")
    (folder / f"{INCOMING}-abc").mkdir()
    terminal.states()
    return terminal


def test_prune_without_yes_lists_files(littered: Terminal) -> None:
    before = sorted(os.listdir(littered.folder))
    assert littered.commands().prune((), confirmed=False) is ModelsExit.OK
    states = littered.states()
    assert set(states) == {"old.onnx", "old.ckpt.sealed", INCOMING, f"{INCOMING}-abc"}
    assert set(states.values()) == {"would be removed"}
    assert sorted(os.listdir(littered.folder)) == before


def test_prune_with_yes_removes_files(littered: Terminal) -> None:
    assert littered.commands().prune((), confirmed=True) is ModelsExit.OK
    kept = {MODEL, WEIGHTS_NAME, LOCK_FILE, "README.md", "notes.yaml.bak", *LISTS}
    assert set(os.listdir(littered.folder)) == kept


def test_prune_keeps_listed_models(littered: Terminal) -> None:
    (littered.folder / "1_HP-UVR.pth").write_bytes(b"x")
    (littered.folder / "UVR-MDX-NET-Inst_HQ_5.onnx").write_bytes(b"x")
    assert littered.commands().prune(["UVR-MDX-NET-Inst_HQ_5.onnx"], confirmed=True) is ModelsExit.OK
    assert {MODEL, WEIGHTS_NAME, "UVR-MDX-NET-Inst_HQ_5.onnx"} <= set(os.listdir(littered.folder))
    assert "1_HP-UVR.pth" not in os.listdir(littered.folder)


def test_prune_keeps_running_downloads(littered: Terminal) -> None:
    with exclusive_lock(littered.folder / INCOMING / "gone.onnx.lock"):
        assert littered.commands().prune((), confirmed=True) is ModelsExit.OK
        assert (littered.folder / INCOMING / "gone.onnx.part").exists()


def test_prune_with_an_unknown_name_removes_nothing(littered: Terminal) -> None:
    before = sorted(os.listdir(littered.folder))
    assert littered.commands().prune(["tiny.yml"], confirmed=True) is ModelsExit.UNKNOWN
    assert sorted(os.listdir(littered.folder)) == before


# --- encryption ---


@pytest.fixture
def key_options(tmp_path_factory: pytest.TempPathFactory, memory: Path) -> dict[str, Any]:
    key = tmp_path_factory.mktemp("key") / "key"
    key.touch(mode=0o600)
    key.write_bytes(base64.b64encode(os.urandom(32)))
    return {"key_file": key, "plain_dir": memory}


def on_disk(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def test_downloads_are_encrypted_with_a_key(terminal: Terminal, key_options: dict[str, Any], memory: Path) -> None:
    assert pull(terminal, **key_options) is ModelsExit.OK
    assert visible(terminal.folder) == sorted([f"{WEIGHTS_NAME}.sealed", f"{MODEL}.sealed", LOCK_FILE, *LISTS])
    assert WEIGHTS[:32] not in on_disk(terminal.folder)
    assert not any(path.is_file() for path in memory.rglob("*"))
    assert pull(terminal, **key_options) is ModelsExit.OK

    with terminal.commands(**key_options).store.opened([WEIGHTS_NAME, MODEL]) as opened:
        assert (opened / WEIGHTS_NAME).read_bytes() == WEIGHTS
        assert (opened / MODEL).read_bytes() == YAML
    assert list(opened.iterdir()) == []


def test_encrypted_files_are_verified(terminal: Terminal, key_options: dict[str, Any]) -> None:
    pull(terminal, **key_options)
    terminal.states()
    assert verify(terminal, **key_options) is ModelsExit.OK
    assert terminal.states()[WEIGHTS_NAME] == "ok"
    assert verify(terminal) is ModelsExit.DAMAGED  # without the key
    assert terminal.states()[WEIGHTS_NAME] == "closed"
    path = terminal.folder / f"{WEIGHTS_NAME}.sealed"
    path.write_bytes(path.read_bytes()[:-1])
    assert verify(terminal, **key_options) is ModelsExit.DAMAGED
    assert terminal.states()[WEIGHTS_NAME] == "closed"


def test_plain_files_can_be_encrypted_later(terminal: Terminal, key_options: dict[str, Any]) -> None:
    pull(terminal)
    terminal.states()
    assert terminal.commands(**key_options).seal([MODEL]) is ModelsExit.OK
    assert terminal.states() == {MODEL: "sealed", WEIGHTS_NAME: "sealed"}
    assert WEIGHTS[:32] not in on_disk(terminal.folder)
    assert not (terminal.folder / INCOMING).exists()
    assert terminal.commands(**key_options).seal([MODEL]) is ModelsExit.OK
    assert terminal.states() == {MODEL: "was sealed", WEIGHTS_NAME: "was sealed"}


def test_plain_file_is_kept_if_its_encrypted_form_is_wrong(
    terminal: Terminal, key_options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    pull(terminal)
    store = terminal.commands(**key_options).store
    encrypt = store.encrypted_files.encrypt

    def encrypt_other_file(source: Path, target: Path, name: str) -> None:
        encrypt(terminal.folder / MODEL, target, name)

    monkeypatch.setattr(store.encrypted_files, "encrypt", encrypt_other_file)
    with pytest.raises(DecryptionError, match="does not give its content back"):
        store.seal(WEIGHTS_NAME)
    assert (terminal.folder / WEIGHTS_NAME).read_bytes() == WEIGHTS
    assert not store.sealed_path(WEIGHTS_NAME).exists()


def test_seal_without_a_key_changes_nothing(terminal: Terminal) -> None:
    pull(terminal)
    assert terminal.commands().seal([MODEL]) is ModelsExit.CONFIG
    assert (terminal.folder / WEIGHTS_NAME).read_bytes() == WEIGHTS
    assert visible(terminal.folder) == sorted([WEIGHTS_NAME, MODEL, LOCK_FILE, *LISTS])


# --- the program ---


@pytest.fixture
def environment(folder: Path, source: SecureSource) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "MODEL_FILE_DIR": str(folder),
        "ALLOW_PRIVATE_NETWORKS": "true",
        "CA_BUNDLE": str(source.ca_bundle),
    }


def run(environment: dict[str, str], *arguments: str, **others: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "processor.models", *arguments],
        cwd=REPOSITORY,
        env=environment | others,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_program_pulls_a_model(folder: Path, environment: dict[str, str]) -> None:
    done = run(environment, "pull", MODEL)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0].split() == [WEIGHTS_NAME, "fetched"]
    assert (folder / WEIGHTS_NAME).read_bytes() == WEIGHTS


def test_program_has_an_exit_status_per_error(folder: Path, environment: dict[str, str]) -> None:
    done = run(environment, "pull", MODEL, MODEL_OFFLINE="true")
    assert done.returncode == ModelsExit.UNAVAILABLE
    assert f"/{WEIGHTS_NAME}: put it there" in done.stdout
    assert run(environment, "pull").returncode == ModelsExit.USAGE
    assert run(environment, "list", MODEL_FILE_DIR=str(folder / UVR_LIST)).returncode == ModelsExit.STORAGE


def test_a_terminal_shows_the_progress_of_downloads(environment: dict[str, str]) -> None:
    controller, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "processor.models", "pull", MODEL],
        cwd=REPOSITORY,
        env=environment | {"TERM": "xterm", "COLUMNS": "120"},
        stdout=subprocess.DEVNULL,
        stderr=terminal,
    )
    os.close(terminal)
    shown = b""
    with suppress(OSError):  # Linux reports the end of a terminal as an input/output error.
        while piece := os.read(controller, 4096):
            shown += piece
    os.close(controller)

    assert process.wait(60) == 0
    assert f"{WEIGHTS_NAME} ".encode() in shown
    assert b"100 %" in shown
    assert b"downloading" not in shown
