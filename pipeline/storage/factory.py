"""Opens the two stores that the settings select: finished stems, and the hand-off from processor to uploader."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pydantic import SecretStr

from pipeline.storage.local.store import LocalStore
from pipeline.storage.protocol import ObjectStore
from pipeline.storage.s3.store import S3Options, S3Store
from pipeline.storage.signed_links import LinkSigner, load_or_create_key

if TYPE_CHECKING:
    from config import Settings, StorageSettings


def open_store(settings: Settings) -> ObjectStore:
    """Open the store of finished stems.

    Without ``RESULT_BASE_URL``, local links point to the API's own address; an address that means "all interfaces" is
    replaced by the loopback address. Raises InfrastructureError if the key that signs local links cannot be read or
    created.
    """
    if settings.storage.engine.value == "s3":
        return S3Store(s3_options(settings.storage))
    host = {"0.0.0.0": "127.0.0.1", "::": "127.0.0.1"}.get(settings.api.host, settings.api.host)  # noqa: S104  links
    if ":" in host:  # an IPv6 address
        host = f"[{host}]"
    base_url = settings.storage.result_base_url or f"http://{host}:{settings.api.port}"
    signer = LinkSigner(load_or_create_key(settings.state.link_key_file))
    return LocalStore(settings.state.stems_dir, base_url, signer, settings.storage.link_ttl)


def open_handoff(settings: Settings) -> ObjectStore:
    """Open the store for stems in transit from processor to uploader; it serves no local links."""
    if settings.storage.handoff.value == "s3":
        return S3Store(replace(s3_options(settings.storage), stems=False))
    return LocalStore(settings.state.handoff_dir)


def s3_options(storage: StorageSettings) -> S3Options:
    """Return the S3 options of the settings, which guarantee a bucket if an engine is s3."""
    assert storage.s3_bucket is not None
    return S3Options(
        bucket=storage.s3_bucket,
        private_bucket=storage.s3_private_bucket,
        region=storage.aws_region,
        endpoint_url=storage.s3_endpoint_url,
        addressing_style=storage.s3_addressing_style,
        access_key_id=_plain(storage.aws_access_key_id),
        secret_access_key=_plain(storage.aws_secret_access_key),
        session_token=_plain(storage.aws_session_token),
        public_domain=storage.s3_public_domain,
        url_ttl=storage.link_ttl,
        check_links=storage.s3_check_links,
    )


def _plain(secret: SecretStr | None) -> str | None:
    return None if secret is None else secret.get_secret_value()
