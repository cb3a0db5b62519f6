"""The documentation site builds strictly, and pages load nothing from other hosts."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.mkdocs_hooks import rewrite_links
from scripts.tracked import ROOT

#: What a browser loads by itself. Links that a reader may follow are not among it.
_LOADED = re.compile(r"<(?:script|img|iframe|source|video)\b[^>]*\bsrc=[\"']?([^\"'\s>]+)|<link\b([^>]*)>")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stdout + result.stderr
    return folder


def test_site_has_the_pages_of_the_repository(site: Path) -> None:
    for name in ("index", "run-book", "changelog", "security", "BENCHMARKS", "reference/settings", "GLOSSARY"):
        assert (site / f"{name}.html").is_file(), name


def test_pages_load_nothing_from_other_hosts(site: Path) -> None:
    foreign = set()
    for page in site.rglob("*.html"):
        for source, attributes in _LOADED.findall(page.read_text(encoding="utf-8")):
            if attributes and re.search(r"rel=[\"']?(canonical|next|prev)", attributes):
                continue
            address = source or "".join(re.findall(r"href=[\"']?([^\"'\s>]+)", attributes))
            if re.match(r"(?:https?:)?//", address):
                foreign.add(address)
    for style in site.rglob("*.css"):
        foreign.update(re.findall(r"url\([\"']?((?:https?:)?//[^)\"']+)", style.read_text(encoding="utf-8")))
    assert foreign == set()


def test_pages_have_no_links_to_files_outside_of_the_site(site: Path) -> None:
    """Anchors and pages are checked by the strict build; these are the links that it does not know."""
    outside = set()
    for page in site.rglob("*.html"):
        if page.name == "404.html":
            continue
        for target in re.findall(r"<a [^>]*href=[\"']?([^\"'\s>#]+)", page.read_text(encoding="utf-8")):
            if not re.match(r"[a-z]+:|/", target) and not (page.parent / target).resolve().exists():
                outside.add((page.name, target))
    assert outside == set()


@pytest.mark.parametrize(
    ("page", "link", "on_site"),
    [
        ("RELIABILITY.md", "[book](../KAFKA_CONSUMER.md#metrics)", "[book](run-book.md#metrics)"),
        ("how-to/secrets.md", "[book](../../KAFKA_CONSUMER.md)", "[book](../run-book.md)"),
        ("how-to/secrets.md", "[models](../MODELS.md#mirrors)", "[models](../MODELS.md#mirrors)"),
        ("run-book.md", "[models](docs/MODELS.md)", "[models](MODELS.md)"),
        ("contributing.md", "[home](README.md)", "[home](index.md)"),
        ("contributing.md", "[example](.env.example)", "example"),
        ("GPU.md", "[here](#precision)", "[here](#precision)"),
        ("GPU.md", "[there](https://example.com/a.md)", "[there](https://example.com/a.md)"),
        ("GPU.md", "[`code`](../SECURITY.md)", "[`code`](security.md)"),
    ],
)
def test_links_are_rewritten_for_the_site(page: str, link: str, on_site: str) -> None:
    assert rewrite_links(link, page) == on_site
