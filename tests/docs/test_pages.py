"""Pages are true: links lead somewhere, and commands, settings, files and names that pages mention exist."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import config
from scripts.tracked import ROOT, tracked_files
from tests.docs.pages import MarkdownPage, markdown_pages

PAGES = markdown_pages()
#: Pages about the present. The changelog and the decision records mention names of the past.
CURRENT = [page for page in PAGES if page.path.name != "CHANGELOG.md" and page.path.parts[:2] != ("docs", "decisions")]

#: Commands that take half a minute to load their libraries.
SLOW_COMMANDS = {"benchmarks.quality"}
#: Variables of other programs, of the test suite, and words that look like variables.
FOREIGN_VARIABLES = {
    # boto3's
    "AWS_CONFIG_FILE", "AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_PROFILE", "AWS_ROLE_ARN",
    "AWS_SHARED_CREDENTIALS_FILE", "AWS_WEB_IDENTITY_TOKEN_FILE",
    "CUDA_VISIBLE_DEVICES", "FORCE_COLOR", "GOMP_SPINCOUNT", "HTTP_PROXY", "NO_COLOR", "OMP_NUM_THREADS",
    "OMP_WAIT_POLICY",
    "MUTATE_GROUPS", "MUTATE_MINUTES",
    "REQUESTS_CA_BUNDLE", "REQUIRE_KAFKA", "SASL_PLAINTEXT", "SASL_SSL", "UVR_TEST_LONG_JOB_MINUTES",
}  # fmt: skip
#: Names in code style that are not the project's own.
FOREIGN_NAMES = {
    # settings and methods of Kafka's clients, ONNX Runtime and the operating system
    "auto_offset_reset", "commit_async", "delivery_timeout_ms", "enable_auto_commit", "max_block_ms",
    "max_partition_fetch_bytes", "max_poll_interval_ms", "max_poll_records", "metadata_max_age_ms",
    "partition_assignment_strategy", "session_timeout_ms", "shm_size", "stop_grace_period",
    # models and presets of audio-separator, and an operator of torch
    "htdemucs_ft", "scatter_add", "vocal_balanced",
    # names that the code composes
    "uvr_tasks_pulse", "window_320",
}  # fmt: skip


def modules(page: MarkdownPage) -> set[str]:
    """Return the modules that the page runs with ``python -m``."""
    return {module for command in page.commands for module in re.findall(r"python3? -m ([\w.]+)", command)}


def is_runnable(module: str) -> bool:
    """Return True if ``python -m module`` finds something to run."""
    try:
        spec = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        return False
    if spec is None:
        return False
    return spec.submodule_search_locations is None or importlib.util.find_spec(f"{module}.__main__") is not None


@cache
def package_sources(folder: Path) -> str:
    """Return the text of all modules below ``folder``."""
    return "\n".join(path.read_text(encoding="utf-8") for path in sorted(folder.rglob("*.py")))


@cache
def all_sources() -> str:
    """Return the text of every tracked file that is no page, and no test of the pages."""
    text = []
    for path in tracked_files():
        if path.suffix not in (".md", ".lock") and path.parts[:2] != ("tests", "docs"):
            text.append((ROOT / path).read_text(encoding="utf-8", errors="ignore"))
    return "\n".join(text)


def commands_with_help() -> list[str]:
    """Return the modules of pages that parse a command line. Those that load torch for it are left out."""
    found = []
    for module in sorted({module for page in CURRENT for module in modules(page)}):
        path = ROOT / module.replace(".", "/")
        source = path / "__main__.py" if path.is_dir() else path.with_suffix(".py")
        if source.is_file() and "argparse" in source.read_text() and module not in SLOW_COMMANDS:
            found.append(module)
    return found


def setting_names() -> set[str]:
    """Return the variables of all settings, with the ``_FILE`` variants of secrets."""
    names = {str(field.alias) for section in config.SECTIONS for field in section.model_fields.values()}
    secret_files = {
        f"{field.alias}_FILE"
        for section in config.SECTIONS
        for field in section.model_fields.values()
        if "SecretStr" in str(field.annotation)
    }
    return names | secret_files


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_relative_links_and_anchors_exist(page: MarkdownPage) -> None:
    broken = []
    for link in page.links:
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.path.parent / path) if path else page.path
        target = Path(os.path.normpath(target))
        if not (ROOT / target).exists() or (anchor and anchor not in MarkdownPage(target).anchors):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("page", CURRENT, ids=str)
def test_modules_of_commands_can_be_run(page: MarkdownPage) -> None:
    assert [module for module in modules(page) if not is_runnable(module)] == []


@pytest.mark.parametrize("page", CURRENT, ids=str)
def test_options_of_commands_exist(page: MarkdownPage) -> None:
    unknown = []
    for command in page.commands:
        match = re.search(r"python3? -m ([\w.]+)(.*)", command)
        if match and (folder := ROOT / match[1].split(".")[0]).is_dir():
            sources = package_sources(folder)
            options = re.findall(r"(?<![\w-])--[a-z][a-z-]*", match[2])
            unknown += [f"{match[1]} {option}" for option in options if f'"{option}"' not in sources]
    assert unknown == []


@pytest.mark.parametrize("module", commands_with_help())
def test_command_answers_help(module: str) -> None:
    command = [sys.executable, "-m", module, "--help"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("usage:")


@pytest.mark.parametrize("page", CURRENT, ids=str)
def test_make_targets_exist(page: MarkdownPage) -> None:
    targets = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {
        word
        for command in page.commands
        for line in re.findall(r"(?:^|[;&|] *|\w=\S+ )make ((?:[a-z][a-z-]*(?: |$))+)", command)
        for word in line.split()
    }
    assert named - targets == set()


@pytest.mark.parametrize("page", CURRENT, ids=str)
def test_words_of_start_local_are_known(page: MarkdownPage) -> None:
    (known,) = re.findall(r"^ *(--kafka[a-z |-]*)\) ;;$", (ROOT / "start_local.sh").read_text(), re.MULTILINE)
    named = {
        word
        for command in page.commands
        for line in re.findall(r"\./start_local\.sh((?: +[a-z-]+)*)", command)
        for word in line.split()
    }
    assert named - {*known.split(" | "), "separate"} == set()


@pytest.mark.parametrize("page", CURRENT, ids=str)
def test_environment_variables_exist(page: MarkdownPage) -> None:
    code = [*page.spans, *(fence.code for fence in page.fences if fence.info.split(" ")[0] in ("sh", ""))]
    named = {name for text in code for name in re.findall(r"(?<![\w.$])[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+(?![\w*])", text)}
    compose = set(re.findall(r"\$\{([A-Z][A-Z0-9_]*)", (ROOT / "docker-compose.yml").read_text()))
    assert named - setting_names() - compose - FOREIGN_VARIABLES == set()


@pytest.mark.parametrize("page", CURRENT, ids=str)
def test_names_in_code_style_occur_in_the_sources(page: MarkdownPage) -> None:
    """Log events, metrics, fields and functions that were renamed are found here."""
    named = {name for span in page.spans for name in re.findall(r"(?<![\w./-])[a-z]+(?:_[a-z0-9]+)+(?![\w./*])", span)}
    sources = all_sources()
    unknown = {name for name in named - FOREIGN_NAMES if name.removesuffix("_total") not in sources}
    assert unknown == set()


@pytest.mark.parametrize("page", CURRENT, ids=str)
def test_files_in_code_style_exist(page: MarkdownPage) -> None:
    folders = {path.parts[0] for path in tracked_files() if len(path.parts) > 1}
    missing = []
    for span in page.spans:
        for name in re.findall(r"(?<![\w./-])[\w.-]+(?:/[\w.-]+)+/?", span):
            if name.split("/")[0] in folders - {".github"} and not (ROOT / name.rstrip(".")).exists():
                missing.append(name)
    assert missing == []


def test_every_page_of_the_site_is_reachable_from_the_home_page() -> None:
    """A page that no other page links to is not found by a reader of the repository."""
    linked = {
        os.path.normpath(page.path.parent / link.partition("#")[0])
        for page in PAGES
        for link in page.links
        if not re.match(r"[a-z]+:", link)
    }
    pages = {str(page.path) for page in PAGES if page.path.parts[0] == "docs"}
    assert pages - linked == set()


def test_routes_of_the_http_reference_exist() -> None:
    page = MarkdownPage(Path("docs/reference/http-api.md"))
    sources = package_sources(ROOT / "api")
    routes = {route for span in page.spans for route in re.findall(r"^(?:GET|POST|DELETE) (/\S+)$", span)}
    assert routes
    built_in = {"/docs", "/openapi.json"}
    assert {route for route in routes - built_in if f'"{route}"' not in re.sub(r":path", "", sources)} == set()
