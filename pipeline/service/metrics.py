"""What a service counts, in Prometheus' terms. Read at ``/metrics``."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

REGISTRY = CollectorRegistry()

#: Up to an hour: a song takes seconds on a GPU and the better part of an hour on a CPU.
_JOB_SECONDS = (0.1, 0.3, 1, 3, 10, 30, 60, 120, 300, 600, 1200, 3600)

deliveries = Counter(
    "uvr_deliveries", "Messages taken from a topic to be worked on.", ["topic", "repeated"], registry=REGISTRY
)
settled = Counter("uvr_settled", "Messages whose end is durable, by what it was.", ["topic", "end"], registry=REGISTRY)
job_seconds = Histogram(
    "uvr_job_seconds",
    "From taking a message to its durable end, s.",
    ["topic"],
    registry=REGISTRY,
    buckets=_JOB_SECONDS,
)
failures = Counter("uvr_failures", "Attempts that failed.", ["kind", "code"], registry=REGISTRY)
lost = Counter("uvr_deliveries_lost", "Messages that went to another member while in hand.", registry=REGISTRY)
in_hand = Gauge("uvr_in_hand", "Messages that are being worked on.", registry=REGISTRY)
circuit_open = Gauge(
    "uvr_circuit_open", "1 while nothing new is taken because something of ours is unavailable.", registry=REGISTRY
)
circuit_openings = Counter("uvr_circuit_openings", "Times that this began.", ["code"], registry=REGISTRY)
rebalances = Counter("uvr_partitions", "Partitions that came and went.", ["change"], registry=REGISTRY)

engine_busy_seconds = Counter(
    "uvr_engine_busy_seconds",
    "Time in which child processes separated songs with their models loaded, s; counted while they do.",
    ["device"],
    registry=REGISTRY,
)
processes_ready = Gauge(
    "uvr_separation_processes_ready",
    "Child processes whose model is loaded, at work or not.",
    ["device"],
    registry=REGISTRY,
)

#: From a modem to a fast line within a data centre, bytes/s.
_RATES = (1e4, 1e5, 3e5, 1e6, 3e6, 1e7, 3e7, 1e8, 3e8, 1e9)
downloads = Counter(
    "uvr_downloads",
    "Downloads that ended, by how: success, or the code of the error.",
    ["what", "outcome"],
    registry=REGISTRY,
)
download_bytes = Counter(
    "uvr_download_bytes",
    "Bytes that came by downloads, counted every 2 s and when one succeeds.",
    ["what"],
    registry=REGISTRY,
)
download_rate = Histogram(
    "uvr_download_bytes_per_second", "Mean rate of a whole download.", ["what"], registry=REGISTRY, buckets=_RATES
)
download_connections = Histogram(
    "uvr_download_connections",
    "Most connections that a whole download had at a time.",
    ["what"],
    registry=REGISTRY,
    buckets=(1, 2, 4, 8, 16, 32),
)
download_resumed_bytes = Counter(
    "uvr_download_resumed_bytes",
    "Bytes that an earlier try had left, and were not fetched again.",
    ["what"],
    registry=REGISTRY,
)


def exposition() -> tuple[bytes, str]:
    """What ``/metrics`` answers, and its media type."""
    return generate_latest(REGISTRY), CONTENT_TYPE_LATEST
