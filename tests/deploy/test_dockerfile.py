"""Test the Dockerfile as text. hadolint checks its style."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator

import pytest

from tests.deploy.conftest import ROOT, SETTINGS
from tests.deploy.dockerfile import Dockerfile, Instruction

IMAGES = ("api", "uploader", "processor-cpu", "processor-gpu")
PINNED = re.compile(r"[a-z0-9./-]+:\d+\.\d+\.\d+(-[a-z0-9]+)*")
PINNED_BY_DIGEST = re.compile(rf"{PINNED.pattern}@sha256:[0-9a-f]{{64}}")
#: Variables of the images that are not settings.
FOREIGN = re.compile(r"PATH|PYTHON\w+|NUMBA_CACHE_DIR|ORT_DISABLE_TELEMETRY|NVIDIA_\w+")


def locks_of(dockerfile: Dockerfile, image: str) -> list[str]:
    """Return the lock files of the image's virtual environment."""
    (environment,) = [copy for copy in dockerfile.all_of(image, "COPY") if copy.arguments.startswith("/opt/venv")]
    runs = dockerfile.all_of(str(environment.flag("from")), "RUN")
    return [lock for run in runs for lock in re.findall(r"-r /requirements/(\S+?\.lock)", run.arguments)]


def copied(dockerfile: Dockerfile, stage: str) -> Iterator[str]:
    """Yield the sources that a stage copies from the build context, directly or through other stages."""
    for copy in dockerfile.all_of(stage, "COPY"):
        *sources, target = copy.arguments.split()
        origin = copy.flag("from")
        if origin is None:
            yield from sources
        elif target == "/app":
            yield from copied(dockerfile, origin)


def test_base_images_are_pinned_to_exact_versions(dockerfile: Dockerfile) -> None:
    images = dockerfile.base_images({})
    assert all(PINNED.fullmatch(image) for image in images)
    versions = {re.split(r"[:-]", image)[1] for image in images}
    assert len(versions) == 1, "the environment is built with another Python than the one that runs it"


def test_every_base_image_can_be_pinned_by_its_digest(dockerfile: Dockerfile) -> None:
    assert set(dockerfile.arguments.values()) == {""}, "a digest in the file would not be renewed"
    digests = {name: f"@sha256:{position:064x}" for position, name in enumerate(dockerfile.arguments)}
    images = dockerfile.base_images(digests)
    assert all(PINNED_BY_DIGEST.fullmatch(image) for image in images)
    assert len({image.partition("@")[2] for image in images}) == len(dockerfile.base_images({}))


@pytest.mark.parametrize("image", IMAGES)
def test_runs_as_an_unprivileged_user_with_a_fixed_id(dockerfile: Dockerfile, image: str) -> None:
    user = dockerfile.all_of(image, "USER")[-1].arguments
    assert re.fullmatch(r"[1-9]\d{3,}:[1-9]\d{3,}", user)
    (creation,) = [run for run in dockerfile.all_of(image, "RUN") if "useradd" in run.arguments]
    assert f"--uid {user.split(':')[0]} " in creation.arguments


@pytest.mark.parametrize("image", IMAGES)
def test_starts_its_service_without_a_shell(dockerfile: Dockerfile, image: str) -> None:
    service = image.partition("-")[0]
    assert dockerfile.all_of(image, "ENTRYPOINT")[-1].exec_form == ["python", "-m", service]
    assert not dockerfile.all_of(image, "CMD")
    assert dockerfile.all_of(image, "STOPSIGNAL")[-1].arguments == "SIGTERM"


@pytest.mark.parametrize("image", IMAGES)
def test_health_check_uses_the_port_of_the_service(dockerfile: Dockerfile, image: str) -> None:
    check = dockerfile.all_of(image, "HEALTHCHECK")[-1]
    command = Instruction("CMD", (), check.arguments.removeprefix("CMD ")).exec_form
    assert command is not None
    *interpreter, module, path, variable = command
    environment = dockerfile.environment(image)
    assert interpreter == ["python", "-m"]
    assert importlib.util.find_spec(module) is not None
    assert path == "/health", "an orchestrator would restart a service that only waits for its broker"
    assert environment[variable] == dockerfile.all_of(image, "EXPOSE")[-1].arguments
    assert environment[variable.replace("_PORT", "_HOST")] == "0.0.0.0"


@pytest.mark.parametrize("image", IMAGES)
def test_environment_contains_only_existing_settings(dockerfile: Dockerfile, image: str) -> None:
    assert {name for name in dockerfile.environment(image) if not FOREIGN.fullmatch(name)} <= set(SETTINGS)


@pytest.mark.parametrize("image", IMAGES)
def test_contains_one_service_only(dockerfile: Dockerfile, image: str) -> None:
    service = image.partition("-")[0]
    assert set(copied(dockerfile, image)) == {"config.py", "settings/", "deploy/*.py", "pipeline/", f"{service}/"}


@pytest.mark.parametrize(
    ("image", "more"),
    [
        ("api", set()),
        ("uploader", set()),
        ("processor-cpu", {"torch-cpu.lock", "torch-cuda.lock", "separation.lock", "onnxruntime-cpu.lock"}),
        ("processor-gpu", {"torch-cuda.lock", "separation.lock", "onnxruntime-gpu.lock"}),
    ],
)
def test_environment_is_built_from_the_lock_files(dockerfile: Dockerfile, image: str, more: set[str]) -> None:
    locks = set(locks_of(dockerfile, image))
    assert locks == {"uv.lock", "service.lock"} | more  # uv is not part of the environment
    # Without PyTorch's index, whose hashes it has, there is no torch-cpu.lock, and torch-cuda.lock is taken.
    assert all((ROOT / "requirements" / lock).is_file() for lock in locks - {"torch-cpu.lock"})


def test_installs_only_locked_packages(dockerfile: Dockerfile) -> None:
    runs = [run.arguments for stage in dockerfile.stages.values() for run in stage.instructions if run.keyword == "RUN"]
    installs = [part for run in runs for part in re.findall(r"pip install ([^;&]*)", run)]
    assert installs
    for install in installs:
        assert " -r /requirements/" in install
        assert "--require-hashes" in install


def test_downloads_nothing_by_url(dockerfile: Dockerfile) -> None:
    every = [instruction for stage in dockerfile.stages.values() for instruction in stage.instructions]
    assert not [instruction for instruction in every if instruction.keyword == "ADD"]
    assert not [one for one in every if re.search(r"://|index-url|--index|--find-links", one.arguments)]


def test_gpu_processor_requires_a_gpu(dockerfile: Dockerfile) -> None:
    assert dockerfile.environment("processor-gpu")["REQUIRE_GPU"] == "true"
    assert "REQUIRE_GPU" not in dockerfile.environment("processor-cpu")


def test_onnxruntime_telemetry_is_disabled(dockerfile: Dockerfile) -> None:
    for image in ("processor-cpu", "processor-gpu"):
        assert dockerfile.environment(image)["ORT_DISABLE_TELEMETRY"] == "1"


def test_build_context_is_an_allowlist_without_secrets(dockerfile: Dockerfile) -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*", "everything is excluded first, and then included by name"
    allowed = {rule[1:] for rule in rules if rule.startswith("!")}
    needed = {source.rstrip("/").replace("deploy/*.py", "deploy") for i in IMAGES for source in copied(dockerfile, i)}
    assert allowed == needed | {"requirements/*.lock"}
    assert all((ROOT / name).exists() for name in needed)
