"""Compare the locked packages with the known vulnerabilities: ``python -m scripts.audit``.

The vulnerabilities come from PyPI, which receives them from the Python Packaging Advisory Database. Where that service
cannot be reached, or a mirror does not have the data, the command prints how many packages were not checked, and does
not fail: an outage of another service is no reason to reject a change.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
#: Time limit of the comparison, s.
_TIMEOUT = 120.0
#: Vulnerabilities without an effect here, each with the reason.
ACCEPTED: dict[str, str] = {}


def locks() -> list[Path]:
    """Return the lock files."""
    return sorted((ROOT / "requirements").glob("*.lock"))


def audit(files: Sequence[Path]) -> list[dict[str, Any]] | None:
    """Return pip-audit's entry of each package in ``files``; None if the service cannot be reached."""
    options = ["--vulnerability-service=pypi", "--disable-pip", "--require-hashes", "--progress-spinner=off"]
    ignored = [f"--ignore-vuln={name}" for name in ACCEPTED]
    names = [word for file in files for word in ("-r", str(file))]
    command = [sys.executable, "-m", "pip_audit", *options, *ignored, "--format=json", *names]
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_TIMEOUT)
        entries: list[dict[str, Any]] = json.loads(result.stdout)["dependencies"]
    except subprocess.TimeoutExpired:
        return None
    except ValueError:
        sys.stderr.write("".join(result.stderr.splitlines(keepends=True)[-1:]))
        return None
    return entries


def report(entries: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Yield a line for each vulnerability, with the versions that do not have it."""
    for entry in entries:
        for found in entry.get("vulns", ()):
            fixed = ", ".join(found["fix_versions"]) or "none yet"
            yield f"{entry['name']} {entry['version']}: {found['id']}, fixed in: {fixed}"


def main(files: Sequence[Path]) -> int:
    """Print the vulnerabilities of the packages in ``files``. Return 1 if there are any."""
    entries = audit(files)
    if entries is None:
        sys.stdout.write("The vulnerability data cannot be reached. Nothing was checked.\n")
        return 0
    findings = sorted(set(report(entries)))
    unchecked = sum("skip_reason" in entry for entry in entries)
    sys.stdout.writelines(f"{line}\n" for line in findings)
    sys.stdout.write(
        f"{len(findings)} known vulnerabilities. {len(entries) - unchecked} packages were checked; "
        f"the package index has no vulnerability data for {unchecked}.\n"
    )
    return int(bool(findings))


if __name__ == "__main__":
    sys.exit(main(locks()))
