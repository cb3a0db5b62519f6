"""Jars with all they depend on, fetched by Maven from a pom that this package carries."""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from devstack.errors import ToolUnavailableError
from devstack.java import find_java
from devstack.pins import MAVEN_DEPENDENCY_PLUGIN_VERSION
from devstack.tools import install_once, run_tool

_FETCH_SECONDS = 900.0
_PLUGIN = f"org.apache.maven.plugins:maven-dependency-plugin:{MAVEN_DEPENDENCY_PLUGIN_VERSION}"


def fetch_jars(pom: Path, tools_dir: Path, name: str, versions: Mapping[str, str]) -> Path:
    """The folder in `tools_dir`, called `name`, with the jars that `pom` asks for; `versions` fill its properties.

    Nothing is run when they are there already. Raises ToolUnavailableError when Maven or a Java to run it with is
    missing, or when Maven fails.
    """
    content = pom.read_text(encoding="utf-8") + json.dumps(dict(versions), sort_keys=True)
    key = hashlib.sha256(content.encode()).hexdigest()

    def build(folder: Path) -> None:
        maven = shutil.which("mvn")
        if maven is None:
            raise ToolUnavailableError(f"{name} is fetched with Apache Maven: install Maven (the command mvn)")
        # Maven is itself a Java program; without JAVA_HOME it finds only what is on PATH.
        env = {**os.environ, "JAVA_HOME": str(find_java(tools_dir).home)}
        failure = f"Maven could not fetch {name}: check its network or mirror and try again"
        run_tool(_copy_command(maven, pom, folder, versions), timeout=_FETCH_SECONDS, failure=failure, env=env)

    return install_once(tools_dir / name, key, build)


def _copy_command(maven: str, pom: Path, folder: Path, versions: Mapping[str, str]) -> list[str]:
    return [
        maven,
        "--batch-mode",
        "--quiet",
        "--strict-checksums",
        "-Dstyle.color=never",
        *(f"-D{key}={value}" for key, value in versions.items()),
        f"--file={pom}",
        f"{_PLUGIN}:copy-dependencies",
        "-DincludeScope=runtime",
        f"-DoutputDirectory={folder}",
    ]
