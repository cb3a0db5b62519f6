"""Settings of the processor and the uploader: devices, concurrency, time limits, retries, health checks."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field

from settings.types import ADVANCED, GIB, SPLIT, Bytes, Count, Delays, Host, Port, Seconds, Section


def _device(value: str) -> str:
    """Return ``auto``, ``cpu``, a GPU's number, or the UUID of a GPU or MIG partition, which may be abbreviated."""
    if value.lower() in ("auto", "cpu"):
        return value.lower()
    if not re.fullmatch(r"\d{1,3}|(GPU|MIG)-[0-9A-Za-z/-]+", value):
        raise ValueError("must be auto, cpu, or GPUs by number or UUID as nvidia-smi -L lists them, such as 0,1,3")
    return value


def _require_auto_alone(values: tuple[str, ...]) -> tuple[str, ...]:
    if "auto" in values and len(values) > 1:
        raise ValueError("auto stands for all devices there are: name it alone, or name the devices")
    return values


class WorkerSettings(Section):
    """Options of the processes that consume jobs and results."""

    title = "Workers"

    processor_health_host: Host = Field(
        "127.0.0.1",
        alias="PROCESSOR_HEALTH_HOST",
        description="Address of the processor's endpoints /health, /ready and /metrics.",
    )
    processor_health_port: Port = Field(
        8001,
        alias="PROCESSOR_HEALTH_PORT",
        description="Port of the processor's endpoints. 0: any free port.",
    )
    uploader_health_host: Host = Field(
        "127.0.0.1",
        alias="UPLOADER_HEALTH_HOST",
        description="Address of the uploader's endpoints /health, /ready and /metrics.",
    )
    uploader_health_port: Port = Field(
        8002, alias="UPLOADER_HEALTH_PORT", description="Port of the uploader's endpoints. 0: any free port."
    )
    shutdown_grace: Seconds = Field(
        30.0,
        alias="SHUTDOWN_GRACE",
        description="Time after SIGTERM to finish the current job before it is returned to the queue (seconds).",
    )
    devices: Annotated[
        tuple[Annotated[str, AfterValidator(_device)], ...], SPLIT, AfterValidator(_require_auto_alone)
    ] = Field(
        ("auto",),
        alias="PROCESSOR_DEVICES",
        description="Devices that a processor separates on: auto (every NVIDIA GPU, or the CPU if there is none), "
        "cpu, or GPUs by number or UUID as nvidia-smi -L lists them, separated by commas. Numbers count within "
        "CUDA_VISIBLE_DEVICES if that is set. A GPU that is named here and cannot be used is reported as unavailable.",
    )
    concurrency: int = Field(
        1,
        ge=1,
        le=16,
        alias="PROCESSOR_CONCURRENCY",
        description="Number of songs that are separated at a time on each device. Each has a child process "
        "with its own copy of the models. Values above 1 help where one song does not use the whole GPU.",
    )
    prefetch: int = Field(
        3,
        ge=0,
        le=16,
        alias="PREFETCH",
        description="Number of jobs that are downloaded, decoded or handed off while others are separated.",
    )
    prefetch_bytes: Bytes = Field(
        4 * GIB,
        alias="PREFETCH_BYTES",
        description="Disk space that the files of waiting jobs may use together (bytes). The job that is next is never "
        "delayed by it.",
        json_schema_extra=ADVANCED,
    )
    uploader_concurrency: Count = Field(
        4, alias="UPLOADER_CONCURRENCY", description="Number of results that one uploader processes at a time."
    )
    dither: bool = Field(
        False,
        alias="DITHER",
        description="Add dither (TPDF noise of one step) to stems that are encoded with 16 bits. Repeats of a job give "
        "the same bytes. Without it, samples are rounded, and 16-bit samples that a model did not change stay exact.",
        json_schema_extra=ADVANCED,
    )
    job_timeout: Seconds = Field(
        7200.0,
        alias="JOB_TIMEOUT",
        description="Longest separation of any song by one model (seconds). A child process that exceeds it is killed.",
        json_schema_extra=ADVANCED,
    )
    job_timeout_base: Seconds = Field(
        300.0,
        alias="JOB_TIMEOUT_BASE",
        description="Constant part of the time limit of a separation (seconds). The limit is JOB_TIMEOUT_BASE + "
        "JOB_TIMEOUT_FACTOR × length of the song, and at most JOB_TIMEOUT.",
        json_schema_extra=ADVANCED,
    )
    job_timeout_factor: Seconds = Field(
        20.0,
        alias="JOB_TIMEOUT_FACTOR",
        description="Part of the time limit that grows with the song (seconds for each second of the song). A large "
        "model on a CPU takes about 10.",
        json_schema_extra=ADVANCED,
    )
    max_attempts: Count = Field(
        4,
        alias="MAX_ATTEMPTS",
        description="Number of attempts at a job whose source answers with transient errors.",
    )
    max_crashes: Count = Field(
        2,
        alias="MAX_CRASHES",
        description="Number of worker crashes that one job may cause before it becomes a dead letter.",
        json_schema_extra=ADVANCED,
    )
    retry_delays: Delays = Field(
        (10.0, 60.0, 600.0),
        alias="RETRY_DELAYS",
        description="Delays before the second, third … attempt (seconds), separated by commas, each longer than the "
        "one before. Each delay has its own topic. The last delay repeats.",
        json_schema_extra=ADVANCED,
    )
