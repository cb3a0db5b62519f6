"""Fetch jars and their dependencies with Maven, from a pom of this package."""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from devstack.errors import ToolUnavailableError
from devstack.tools.cache import install_once, run_tool
from devstack.tools.java import find_java
from devstack.tools.pins import MAVEN_DEPENDENCY_PLUGIN_VERSION

_FETCH_SECONDS = 900.0
_PLUGIN = f"org.apache.maven.plugins:maven-dependency-plugin:{MAVEN_DEPENDENCY_PLUGIN_VERSION}"


def fetch_jars(pom: Path, tools_dir: Path, name: str, versions: Mapping[str, str]) -> Path:
    """Return the folder `name` in `tools_dir` with the jars that `pom` requires; `versions` fill its properties.

    Maven runs only if the folder is not complete. Raises ToolUnavailableError if Maven or Java is missing, or if Maven
    fails.
    """
    content = pom.read_text(encoding="utf-8") + json.dumps(dict(versions), sort_keys=True)
    key = hashlib.sha256(content.encode()).hexdigest()

    def build(folder: Path) -> None:
        maven = shutil.which("mvn")
        if maven is None:
            raise ToolUnavailableError(f"{name} is fetched with Apache Maven: install Maven (the command mvn)")
        # Maven is itself a Java program; without JAVA_HOME it finds only a Java on PATH.
        env = {**os.environ, "JAVA_HOME": str(find_java(tools_dir).home)}
        failure = f"Maven could not fetch {name}: check its network or mirror and try again"
        command = [
            *(maven, "--batch-mode", "--quiet", "--strict-checksums", "-Dstyle.color=never", f"--file={pom}"),
            *(f"-D{key}={value}" for key, value in versions.items()),
            *(f"{_PLUGIN}:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={folder}"),
        ]
        run_tool(command, timeout=_FETCH_SECONDS, failure=failure, env=env)

    return install_once(tools_dir / name, key, build)
