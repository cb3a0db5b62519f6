"""What the Dockerfile promises, as far as it can be read from it. hadolint checks its style."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator

import pytest

from tests.deploy.conftest import ROOT, SETTINGS
from tests.deploy.dockerfile import Dockerfile, Instruction

IMAGES = ("api", "uploader", "processor-cpu", "processor-gpu")
PINNED = re.compile(r"[a-z0-9./-]+:\d+\.\d+\.\d+(-[a-z0-9]+)*")
#: Variables of the images that are no settings of ours.
FOREIGN = re.compile(r"PATH|PYTHON\w+|NUMBA_CACHE_DIR|ORT_DISABLE_TELEMETRY|NVIDIA_\w+")


def locks_of(dockerfile: Dockerfile, image: str) -> list[str]:
    """The lock files that the image's virtual environment may be made of."""
    (environment,) = [copy for copy in dockerfile.all_of(image, "COPY") if copy.arguments.startswith("/opt/venv")]
    runs = dockerfile.all_of(str(environment.flag("from")), "RUN")
    return [lock for run in runs for lock in re.findall(r"-r /requirements/(\S+?\.lock)", run.arguments)]


def copied(dockerfile: Dockerfile, stage: str) -> Iterator[str]:
    """What gets into a stage from the build context, by way of other stages as well."""
    for copy in dockerfile.all_of(stage, "COPY"):
        *sources, target = copy.arguments.split()
        origin = copy.flag("from")
        if origin is None:
            yield from sources
        elif target == "/app":
            yield from copied(dockerfile, origin)


def test_base_images_are_pinned_by_exact_version(dockerfile: Dockerfile) -> None:
    assert all(PINNED.fullmatch(image) for image in dockerfile.base_images)
    versions = {re.split(r"[:-]", image)[1] for image in dockerfile.base_images}
    assert len(versions) == 1, "the environment is built for another Python than the one that it is run by"


@pytest.mark.parametrize("image", IMAGES)
def test_runs_as_a_user_without_rights_and_with_a_fixed_id(dockerfile: Dockerfile, image: str) -> None:
    user = dockerfile.all_of(image, "USER")[-1].arguments
    assert re.fullmatch(r"[1-9]\d{3,}:[1-9]\d{3,}", user)
    (made,) = [run for run in dockerfile.all_of(image, "RUN") if "useradd" in run.arguments]
    assert f"--uid {user.split(':')[0]} " in made.arguments


@pytest.mark.parametrize("image", IMAGES)
def test_starts_its_service_without_a_shell(dockerfile: Dockerfile, image: str) -> None:
    service = image.partition("-")[0]
    assert dockerfile.all_of(image, "ENTRYPOINT")[-1].exec_form == ["python", "-m", service]
    assert not dockerfile.all_of(image, "CMD")
    assert dockerfile.all_of(image, "STOPSIGNAL")[-1].arguments == "SIGTERM"


@pytest.mark.parametrize("image", IMAGES)
def test_health_check_asks_for_the_port_that_the_service_listens_on(dockerfile: Dockerfile, image: str) -> None:
    check = dockerfile.all_of(image, "HEALTHCHECK")[-1]
    command = Instruction("CMD", (), check.arguments.removeprefix("CMD ")).exec_form
    assert command is not None
    *interpreter, module, path, variable = command
    environment = dockerfile.environment(image)
    assert interpreter == ["python", "-m"]
    assert importlib.util.find_spec(module) is not None
    assert path == "/health", "an orchestrator would restart what only waits for its broker"
    assert environment[variable] == dockerfile.all_of(image, "EXPOSE")[-1].arguments
    assert environment[variable.replace("_PORT", "_HOST")] == "0.0.0.0"


@pytest.mark.parametrize("image", IMAGES)
def test_environment_holds_settings_that_exist(dockerfile: Dockerfile, image: str) -> None:
    assert {name for name in dockerfile.environment(image) if not FOREIGN.fullmatch(name)} <= set(SETTINGS)


@pytest.mark.parametrize("image", IMAGES)
def test_holds_the_service_and_no_other(dockerfile: Dockerfile, image: str) -> None:
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
def test_is_made_of_its_lock_files(dockerfile: Dockerfile, image: str, more: set[str]) -> None:
    locks = set(locks_of(dockerfile, image))
    assert locks == {"uv.lock", "service.lock"} | more  # uv itself stays outside the environment
    assert all((ROOT / "requirements" / lock).is_file() for lock in locks)


def test_installs_nothing_that_is_not_locked(dockerfile: Dockerfile) -> None:
    runs = [run.arguments for stage in dockerfile.stages.values() for run in stage.instructions if run.keyword == "RUN"]
    installs = [part for run in runs for part in re.findall(r"pip install ([^;&]*)", run)]
    assert installs
    for install in installs:
        assert " -r /requirements/" in install
        # The CPU builds of torch alone have no hashes: they are other files than the ones that were locked.
        assert ("--require-hashes" in install) != ("torch-cpu.lock" in install)


def test_fetches_nothing_by_address(dockerfile: Dockerfile) -> None:
    every = [instruction for stage in dockerfile.stages.values() for instruction in stage.instructions]
    assert not [instruction for instruction in every if instruction.keyword == "ADD"]
    assert not [one for one in every if re.search(r"://|index-url|--index|--find-links", one.arguments)]


def test_gpu_processor_refuses_the_cpu(dockerfile: Dockerfile) -> None:
    assert dockerfile.environment("processor-gpu")["REQUIRE_GPU"] == "true"
    assert "REQUIRE_GPU" not in dockerfile.environment("processor-cpu")


def test_onnxruntime_reports_to_nobody(dockerfile: Dockerfile) -> None:
    for image in ("processor-cpu", "processor-gpu"):
        assert dockerfile.environment(image)["ORT_DISABLE_TELEMETRY"] == "1"


def test_context_is_what_is_named_and_holds_no_secrets(dockerfile: Dockerfile) -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*", "everything is left out, and then let in by name"
    allowed = {rule[1:] for rule in rules if rule.startswith("!")}
    wanted = {source.rstrip("/").replace("deploy/*.py", "deploy") for i in IMAGES for source in copied(dockerfile, i)}
    assert allowed == wanted | {"requirements/*.lock"}
    assert all((ROOT / name).exists() for name in wanted)
