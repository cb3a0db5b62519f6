"""Format the folder of a Kafka node, once, under the id of its cluster, before the node can start on it."""

import base64
import secrets
import subprocess
from collections.abc import Sequence
from pathlib import Path

from devstack.errors import ServerStartError
from devstack.processes.server import server_environment

_FORMAT_SECONDS = 120.0


def new_cluster_id() -> str:
    """Return a random id in Kafka's form: 16 bytes in URL-safe base64 that do not start with a dash (KIP-78)."""
    while True:
        cluster_id = base64.urlsafe_b64encode(secrets.token_bytes(16)).rstrip(b"=").decode()
        if not cluster_id.startswith("-"):
            return cluster_id


def stored_cluster_id(log_dir: Path) -> str | None:
    """Return the id of the cluster that `log_dir` was formatted for; None if formatting never completed."""
    try:
        lines = (log_dir / "meta.properties").read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return None
    return next((line.removeprefix("cluster.id=") for line in lines if line.startswith("cluster.id=")), None)


def format_storage(java: Sequence[str], settings: Path, cluster_id: str, *options: str) -> None:
    """Format the folders of a node. Raises ServerStartError."""
    command = [*java, "kafka.tools.StorageTool", "format", *options, "-t", cluster_id, "-c", str(settings)]
    try:
        run = subprocess.run(
            command, capture_output=True, text=True, timeout=_FORMAT_SECONDS, env=server_environment(), check=False
        )
    except subprocess.TimeoutExpired:
        raise ServerStartError(f"Kafka's storage was not formatted within {_FORMAT_SECONDS:.0f} s") from None
    if run.returncode != 0:
        raise ServerStartError(f"Kafka's storage could not be formatted: {(run.stderr or run.stdout).strip()}")
