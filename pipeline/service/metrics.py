"""The Prometheus metrics of the services, served at ``/metrics``."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

REGISTRY = CollectorRegistry()

#: Buckets up to an hour, s: a song takes seconds on a GPU and up to most of an hour on a CPU.
_JOB_SECONDS = (0.1, 0.3, 1, 3, 10, 30, 60, 120, 300, 600, 1200, 3600)

deliveries = Counter(
    "uvr_deliveries", "Messages received from a topic for processing.", ["topic", "repeated"], registry=REGISTRY
)
settled = Counter("uvr_settled", "Messages whose outcome is durable, by its kind.", ["topic", "end"], registry=REGISTRY)
job_seconds = Histogram(
    "uvr_job_seconds",
    "Time from receiving a message to its durable outcome, s.",
    ["topic"],
    registry=REGISTRY,
    buckets=_JOB_SECONDS,
)
failures = Counter("uvr_failures", "Attempts that failed.", ["kind", "code"], registry=REGISTRY)
lost = Counter("uvr_deliveries_lost", "Messages reassigned to another member during processing.", registry=REGISTRY)
in_hand = Gauge("uvr_in_hand", "Messages in processing.", registry=REGISTRY)
circuit_open = Gauge(
    "uvr_circuit_open", "1 while no new messages are received because of an infrastructure fault.", registry=REGISTRY
)
circuit_openings = Counter("uvr_circuit_openings", "Times that the circuit opened.", ["code"], registry=REGISTRY)
rebalances = Counter("uvr_partitions", "Partitions assigned and revoked.", ["change"], registry=REGISTRY)
log_restarts = Counter(
    "uvr_log_restarts", "Partitions whose log went back or was replaced.", ["topic"], registry=REGISTRY
)

engine_busy_seconds = Counter(
    "uvr_engine_busy_seconds",
    "Time that child processes spent separating songs with loaded models, s; updated during a separation.",
    ["device"],
    registry=REGISTRY,
)
processes_ready = Gauge(
    "uvr_separation_processes_ready",
    "Child processes whose model is loaded, busy or idle.",
    ["device"],
    registry=REGISTRY,
)

#: Buckets from a modem to a fast link within a data centre, bytes/s.
_RATES = (1e4, 1e5, 3e5, 1e6, 3e6, 1e7, 3e7, 1e8, 3e8, 1e9)
downloads = Counter(
    "uvr_downloads",
    "Finished downloads, by outcome: success, or the code of the error.",
    ["what", "outcome"],
    registry=REGISTRY,
)
download_bytes = Counter(
    "uvr_download_bytes",
    "Bytes received by downloads, updated every 2 s and at each success.",
    ["what"],
    registry=REGISTRY,
)
download_rate = Histogram(
    "uvr_download_bytes_per_second", "Mean rate of a complete download.", ["what"], registry=REGISTRY, buckets=_RATES
)
download_connections = Histogram(
    "uvr_download_connections",
    "Maximum number of concurrent connections of a complete download.",
    ["what"],
    registry=REGISTRY,
    buckets=(1, 2, 4, 8, 16, 32),
)
download_resumed_bytes = Counter(
    "uvr_download_resumed_bytes",
    "Bytes reused from an earlier try instead of being fetched again.",
    ["what"],
    registry=REGISTRY,
)


swept_objects = Counter(
    "uvr_swept_objects", "Stems, outcomes and leftovers removed after RESULT_RETENTION.", registry=REGISTRY
)
swept_bytes = Counter("uvr_swept_bytes", "Bytes of the objects removed after RESULT_RETENTION.", registry=REGISTRY)


def exposition() -> tuple[bytes, str]:
    """Return the body of ``/metrics`` and its media type."""
    return generate_latest(REGISTRY), CONTENT_TYPE_LATEST
