"""How boto3's clients are set up for AWS and for every other server that speaks its protocol."""

from __future__ import annotations

from typing import Any, Literal

import boto3
from botocore.config import Config

from pipeline.errors import ErrorCode, InfrastructureError

#: Connections per client: the transfers of a few threads at once.
_POOL = 16


def open_client(
    session: boto3.session.Session, endpoint_url: str | None, *, attempts: int, timeouts: tuple[float, float]
) -> Any:
    """A client of AWS, or of the server at ``endpoint_url``. Raises InfrastructureError.

    ``timeouts``: s for a connection, and between two bytes.
    """
    # Servers other than AWS know the newer checksums in part or not at all; there, only what an operation demands.
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
        # Stricter than the settings' own check: it takes no underscore in a host name, for one.
        raise InfrastructureError(
            "S3_ENDPOINT_URL is not an address that boto3 accepts", code=ErrorCode.STORAGE_REFUSED
        ) from None
