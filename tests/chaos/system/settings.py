"""The settings of the services: fast detection of crashes, and many attempts for everything except poison."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from unittest.mock import patch

from config import load
from demo.centre_model import DEMO_MODEL_NAME
from devstack.environment import isolated_environment
from devstack.kafka.cluster import KafkaCluster
from devstack.s3 import S3Server
from pipeline.topics import Topics
from tests.chaos.system.counterparts import WEBHOOK_SECRET

BUCKET = "uvr"
CREDENTIALS = ("chaos", "a password of the tests")
PROCESSOR_GROUP, UPLOADER_GROUP = "uvr_processors", "uvr_uploaders"

#: Settings that differ from the defaults, except MAX_CRASHES and the number of replicas. They are part of the report.
CHANGED_SETTINGS: Mapping[str, str] = {
    "KAFKA_SESSION_TIMEOUT_MS": "6000",
    "KAFKA_PARTITIONS": "4",
    "RETRY_DELAYS": "1,3,10",
    # Many faults must not exhaust the attempts of a job.
    "MAX_ATTEMPTS": "50",
    "WEBHOOK_MAX_ATTEMPTS": "100",
    "WEBHOOK_TIMEOUT": "5",
    "DOWNLOAD_CONNECT_TIMEOUT": "3",
    "DOWNLOAD_STALL_TIMEOUT": "5",
    "SHUTDOWN_GRACE": "10",
    # Some jobs of a client that exceeds its share use the bulk topic.
    "CLIENT_BURST": "4",
    "CLIENT_REFILL": "5",
}


def changed_settings(max_crashes: int, brokers: int) -> dict[str, str]:
    """Return the settings that differ from the defaults.

    ``max_crashes``: number of children that poison kills, each of which takes seconds. It must be so high that no other
    job is likely to crash as often by chance. ``brokers``: the number of brokers, and so of replicas.
    """
    return {**CHANGED_SETTINGS, "MAX_CRASHES": str(max_crashes), "KAFKA_REPLICATION_FACTOR": str(brokers)}


def common(cluster: KafkaCluster, store: S3Server, s3_url: str, changed: Mapping[str, str]) -> dict[str, str]:
    """Return the complete environment of every service. ``changed``: see ``changed_settings``."""
    return isolated_environment(
        {
            **changed,
            "KAFKA_BOOTSTRAP_SERVERS": cluster.bootstrap_servers,
            "KAFKA_PROCESSOR_GROUP_ID": PROCESSOR_GROUP,
            "KAFKA_UPLOADER_GROUP_ID": UPLOADER_GROUP,
            "STORAGE": "s3",
            "HANDOFF": "s3",
            "S3_BUCKET_NAME": BUCKET,
            "S3_ENDPOINT_URL": s3_url,
            "AWS_ACCESS_KEY_ID": store.access_key,
            "AWS_SECRET_ACCESS_KEY": store.secret_key,
            "AWS_REGION": store.region,
            "BASIC_AUTH_USERNAME": CREDENTIALS[0],
            "BASIC_AUTH_PASSWORD": CREDENTIALS[1],
            "WEBHOOK_SECRET": WEBHOOK_SECRET,
            "ALLOW_PRIVATE_NETWORKS": "true",
            "MODEL_NAME": DEMO_MODEL_NAME,
            "LOG_FORMAT": "json",
        }
    )


def service_settings(folder: Path, temp_dir: Path, port: int) -> dict[str, str]:
    """Return the environment specific to one service."""
    return {
        "DATA_DIR": str(folder / "state"),
        "TEMP_DIR": str(temp_dir),
        "MODEL_FILE_DIR": str(folder / "models"),
        "API_PORT": str(port),
        "PROCESSOR_HEALTH_PORT": str(port),
        "UPLOADER_HEALTH_PORT": str(port),
    }


def topics() -> Topics:
    """Return the topics as configured for the services."""
    with patch.dict(os.environ, CHANGED_SETTINGS, clear=True):
        return Topics.from_settings(load(None))
