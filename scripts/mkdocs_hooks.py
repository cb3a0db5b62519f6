"""Hooks of the documentation site: the pages at the root of the repository are pages of the site as well.

Links between pages are written for a reader of the repository (``../KAFKA_CONSUMER.md`` from a page in ``docs``). The
hooks rewrite them for the site. A link to a file that is no page, such as ``.env.example``, becomes its plain text.
"""

from __future__ import annotations

import posixpath
import re
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

#: Page of the repository, and its name on the site.
ROOT_PAGES = {
    "KAFKA_CONSUMER.md": "run-book.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "CHANGELOG.md": "changelog.md",
}
#: The site's home page takes the place of the README.
_PAGES = {**ROOT_PAGES, "README.md": "index.md"}
_PLACES = {name: path for path, name in ROOT_PAGES.items()}

_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s]+)\)")
_FENCE = re.compile(r"(^```.*?^```[^\n]*$)", re.MULTILINE | re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages at the root of the repository to those of ``docs``."""
    root = posixpath.dirname(config.config_file_path)
    for path, name in ROOT_PAGES.items():
        files.append(File.generated(config, name, abs_src_path=f"{root}/{path}"))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Rewrite the links of a page for the site."""
    parts = _FENCE.split(markdown)
    return "".join(part if part.startswith("```") else rewrite_links(part, page.file.src_uri) for part in parts)


def rewrite_links(markdown: str, page: str) -> str:
    """Return ``markdown`` with the links that lead out of ``docs`` rewritten. ``page``: its name on the site."""
    place = _PLACES.get(page, f"docs/{page}")

    def rewrite(link: re.Match[str]) -> str:
        image, text, target = link.groups()
        path, hash_sign, anchor = target.partition("#")
        if image or not path or "://" in target or target.startswith("mailto:"):
            return link[0]
        in_repository = posixpath.normpath(posixpath.join(posixpath.dirname(place), path))
        if in_repository.startswith("docs/"):
            on_site = in_repository.removeprefix("docs/")
        elif in_repository in _PAGES:
            on_site = _PAGES[in_repository]
        else:
            return text
        if not on_site.endswith(".md"):
            return link[0] if in_repository.startswith("docs/") and place.startswith("docs/") else text
        return f"[{text}]({posixpath.relpath(on_site, posixpath.dirname(page) or '.')}{hash_sign}{anchor})"

    return _LINK.sub(rewrite, markdown)
