"""The configuration of boto3's clients for AWS and for other S3-compatible servers."""

from __future__ import annotations

from typing import Any, Literal

import boto3
from botocore.config import Config

from pipeline.errors import ErrorCode, InfrastructureError

#: Connections per client, for concurrent transfers of a few threads.
_POOL = 16


def open_client(
    session: boto3.session.Session, endpoint_url: str | None, *, attempts: int, timeouts: tuple[float, float]
) -> Any:
    """Create a client of AWS, or of the server at ``endpoint_url``. Raises InfrastructureError.

    ``timeouts``: for a connection, and between two reads, s.
    """
    # Servers other than AWS support the newer checksums partly or not at all; they get only the required ones.
    checksums: Literal["when_required", "when_supported"]
    checksums = "when_required" if endpoint_url else "when_supported"
    config = Config(
        signature_version="s3v4",
        s3={"addressing_style": "path" if endpoint_url else "auto"},
        retries={"mode": "standard", "total_max_attempts": attempts},
        connect_timeout=timeouts[0],
        read_timeout=timeouts[1],
        max_pool_connections=_POOL,
        request_checksum_calculation=checksums,
        response_checksum_validation=checksums,
    )
    try:
        return session.client("s3", endpoint_url=endpoint_url, config=config)
    except ValueError:
        # boto3 is stricter than the validation of the settings; for example, it rejects underscores in host names.
        raise InfrastructureError(
            "S3_ENDPOINT_URL is not a URL that boto3 accepts", code=ErrorCode.STORAGE_REFUSED
        ) from None
