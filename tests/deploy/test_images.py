"""Test the contents of the images without Docker: exactly the copied files and the locked packages.

Each service must start with the environment of the Dockerfile and of docker-compose.yml, answer its health check, and
stop.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from demo.centre_model import DEMO_MODEL_NAME, write_demo_model
from devstack.processes.process import free_port
from pipeline.service.shutdown import ExitCode
from tests.deploy.compose import ComposeFile
from tests.deploy.conftest import REQUIRED, ROOT
from tests.deploy.dockerfile import Dockerfile
from tests.deploy.test_dockerfile import copied, locks_of

pytestmark = pytest.mark.slow

#: Longer than loading a model on a busy machine, s.
DEADLINE = 90.0
LIGHT = ("api", "uploader")
IMPORT_ALL = """
import importlib, pkgutil, sys
for name in sys.argv[1:]:
    package = importlib.import_module(name)
    for module in pkgutil.walk_packages(getattr(package, "__path__", ()), name + "."):
        if module.name != "pipeline.download.http.curl_adapter":  # needs the optional package curl_cffi
            importlib.import_module(module.name)
"""


@pytest.fixture(scope="module")
def light_python(dockerfile: Dockerfile, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Create the virtual environment of the api and the uploader; return its Python."""
    (locks,) = {tuple(locks_of(dockerfile, image)) for image in LIGHT}
    uv = shutil.which("uv", path=str(Path(sys.prefix, "bin"))) or shutil.which("uv")
    if uv is None:
        pytest.skip("uv, which builds the images, is not installed")
    environment = tmp_path_factory.mktemp("light") / "venv"
    python = environment / "bin" / "python"
    files = [word for lock in locks if lock != "uv.lock" for word in ("-r", str(ROOT / "requirements" / lock))]
    run([uv, "venv", "--quiet", "--python", sys.executable, str(environment)])
    run([uv, "pip", "install", "--quiet", "--python", str(python), "--no-deps", "--require-hashes", *files])
    run([uv, "pip", "check", "--quiet", "--python", str(python)])
    return python


def run(command: list[str], cwd: Path | None = None) -> None:
    result = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=DEADLINE)
    assert result.returncode == 0, result.stderr


class Image:
    """The files of an image below ``root``, and the environment of its container there."""

    def __init__(self, dockerfile: Dockerfile, compose: ComposeFile, name: str, service: str, root: Path) -> None:
        self.app = root / "app"
        self.entrypoint = dockerfile.all_of(name, "ENTRYPOINT")[-1].exec_form or []
        self.probe: list[str] = json.loads(dockerfile.all_of(name, "HEALTHCHECK")[-1].arguments.removeprefix("CMD "))
        self.environment = container_environment(dockerfile.environment(name), compose, service, root)
        self.environment[self.probe[-1]] = str(free_port())
        for source in copied(dockerfile, name):
            for path in ROOT.glob(source.rstrip("/")):
                copy(path, self.app / path.relative_to(ROOT))

    @property
    def files(self) -> set[Path]:
        return set(self.app.rglob("*"))

    @contextmanager
    def running(self, python: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
        """Start the service and yield it when it is healthy; kill it at the end."""
        command = [str(python), *self.entrypoint[1:]]
        with log.open("wb") as output:
            service = subprocess.Popen(command, cwd=self.app, env=self.environment, stderr=output)
            try:
                deadline = time.monotonic() + DEADLINE
                while not self._is_healthy(python):
                    assert service.poll() is None, log.read_text()
                    assert time.monotonic() < deadline, log.read_text()
                yield service
            finally:
                service.kill()
                service.wait()

    def _is_healthy(self, python: Path) -> bool:
        probe = [str(python), *self.probe[1:]]
        return subprocess.run(probe, cwd=self.app, env=self.environment, stdout=subprocess.DEVNULL).returncode == 0


def container_environment(image: Mapping[str, str], compose: ComposeFile, service: str, root: Path) -> dict[str, str]:
    """Return the environment of a container, with its folders below ``root`` and unreachable servers."""
    unreachable = {
        "KAFKA_BOOTSTRAP_SERVERS": f"127.0.0.1:{free_port()}",
        "S3_ENDPOINT_URL": f"http://127.0.0.1:{free_port()}",
        "MODEL_NAME": DEMO_MODEL_NAME,
    }
    environment = {**image, **compose.environment(service, REQUIRED | unreachable), "HOME": "/nonexistent"}
    del environment["PATH"]
    for folder in ("/data", "/models"):
        environment = {k: str(root) + v if v.startswith(folder) else v for k, v in environment.items()}
    return environment


def copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy(source, target)


@pytest.mark.parametrize("name", LIGHT)
def test_light_images_need_only_their_packages(
    name: str, dockerfile: Dockerfile, compose: ComposeFile, light_python: Path, tmp_path: Path
) -> None:
    image = Image(dockerfile, compose, name, name, tmp_path)
    shipped = image.files
    run([str(light_python), "-B", "-c", IMPORT_ALL, "config", "settings", "deploy", "pipeline", name], cwd=image.app)
    with image.running(light_python, tmp_path / "log") as service:
        service.terminate()
        assert service.wait(DEADLINE) == ExitCode.OK
    assert image.files == shipped, "the file system of the image is read-only"


def test_processor_image_contains_all_of_its_files(
    dockerfile: Dockerfile, compose: ComposeFile, tmp_path: Path
) -> None:
    """The test uses the packages of this environment, because a separate one takes gigabytes."""
    image = Image(dockerfile, compose, "processor-cpu", "processor", tmp_path)
    shipped = image.files
    write_demo_model(tmp_path / "models")
    with image.running(Path(sys.executable), tmp_path / "log") as service:
        service.terminate()
        assert service.wait(DEADLINE) == ExitCode.OK
    assert image.files == shipped, "the file system of the image is read-only"
    assert not list((tmp_path / "data").rglob("job-files-*")), "working files remain"
