"""Write a bill of materials (CycloneDX, JSON) of the Python packages of each image: ``python -m scripts.sbom FOLDER``.

It lists what the lock files install into the image, with the hashes of the files. The system packages of the base image
are not listed; `docker buildx imagetools` or a scanner of images shows them.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
_LOCKS = ROOT / "requirements"
_TORCH_CPU = "torch-cpu" if (_LOCKS / "torch-cpu.lock").exists() else "torch-cuda"
#: The locks of each target of the Dockerfile.
IMAGES = {
    "api": ("service",),
    "uploader": ("service",),
    "processor-cpu": ("service", _TORCH_CPU, "separation", "onnxruntime-cpu"),
    "processor-gpu": ("service", "torch-cuda", "separation", "onnxruntime-gpu"),
}


def requirements_of(image: str) -> Iterator[str]:
    """Yield the line of each package that the image contains, without the packages for other systems."""
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    version = re.findall(r"^FROM python:([\d.]+)-slim", dockerfile, re.MULTILINE)[0]
    system = {
        "python_version": version.rpartition(".")[0],
        "python_full_version": version,
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
        "sys_platform": "linux",
        "platform_system": "Linux",
        "platform_machine": "x86_64",
        "os_name": "posix",
    }
    lines = set()
    for lock in IMAGES[image]:
        text = re.sub(r"\\\n\s*", "", (_LOCKS / f"{lock}.lock").read_text(encoding="utf-8"))
        lines |= {line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")}
    for line in sorted(lines):
        requirement, *hashes = line.split(" --hash=")
        parsed = Requirement(requirement)
        if parsed.marker is None or parsed.marker.evaluate(dict(system)):
            yield " --hash=".join([f"{parsed.name}{parsed.specifier}", *hashes])


def bill_of_materials(image: str) -> str:
    """Return the bill of the image. Raises CalledProcessError if it does not match CycloneDX's schema."""
    options = ["--output-format=JSON", "--spec-version=1.6", "--output-reproducible", "--validate"]
    # It warns that locks do not contain the dependencies between packages.
    python = [sys.executable, "-W", "ignore::UserWarning"]
    command = [*python, "-m", "cyclonedx_py", "requirements", *options, "--pyproject", "pyproject.toml", "-"]
    lines = "\n".join(requirements_of(image))
    return subprocess.run(command, cwd=ROOT, input=lines, check=True, stdout=subprocess.PIPE, text=True).stdout


def main(folder: Path) -> None:
    """Write the bill of each image into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    for image in IMAGES:
        target = folder / f"{image}.cdx.json"
        target.write_text(bill_of_materials(image), encoding="utf-8")
        sys.stdout.write(f"{target}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
