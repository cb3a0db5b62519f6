"""The configuration of boto3's clients for AWS and for other S3-compatible servers."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import boto3
from botocore.config import Config

from pipeline.errors import ErrorCode, InfrastructureError

AddressingStyle = Literal["auto", "path", "virtual"]
"""Place of the bucket's name in URLs: the path, the host name, or ``auto``: the host name for AWS alone."""

#: Connections per client, for concurrent transfers of a few threads.
_POOL = 16
#: The region of AWS for a bucket whose region is not configured.
DEFAULT_REGION = "us-east-1"


def open_session(
    access_key_id: str | None, secret_access_key: str | None, session_token: str | None, region: str | None
) -> boto3.session.Session:
    """Open a session with these credentials; without any, botocore's chain finds them (profile, role, web identity).

    Without ``region``, the session has that of AWS_DEFAULT_REGION or of the profile, or else us-east-1. Raises
    botocore's exceptions.
    """
    open_in = partial(
        boto3.session.Session,
        aws_access_key_id=access_key_id,
        aws_secret_access_key=secret_access_key,
        aws_session_token=session_token,
    )
    session = open_in(region_name=region)
    # Without a region, links would lead to AWS's global host.
    return session if session.region_name else open_in(region_name=DEFAULT_REGION)


def open_client(
    session: boto3.session.Session,
    endpoint_url: str | None,
    *,
    addressing_style: AddressingStyle,
    attempts: int,
    timeouts: tuple[float, float],
) -> Any:
    """Create a client of AWS, or of the server at ``endpoint_url``. Raises InfrastructureError.

    ``timeouts``: for a connection, and between two reads, s.
    """
    # Servers other than AWS support the newer checksums partly or not at all; they get only the required ones.
    checksums: Literal["when_required", "when_supported"]
    checksums = "when_required" if endpoint_url else "when_supported"
    config = Config(
        signature_version="s3v4",
        s3={
            "addressing_style": _resolve_style(addressing_style, endpoint_url),
            "us_east_1_regional_endpoint": "regional",
        },
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


def _resolve_style(style: AddressingStyle, endpoint_url: str | None) -> AddressingStyle:
    """Return ``path`` or ``virtual`` for ``auto``: servers other than AWS rarely have a host name for each bucket.

    boto3 does not get ``auto``: it would sign links for AWS's global host, which refuses signatures of newer regions
    and redirects those of the others.
    """
    if style != "auto":
        return style
    return "path" if endpoint_url else "virtual"
