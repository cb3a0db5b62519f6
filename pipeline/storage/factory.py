"""Opens the two stores that the settings name: finished stems, and the hand-off from processor to uploader."""

from __future__ import annotations

from ipaddress import IPv6Address, ip_address
from typing import TYPE_CHECKING

from pipeline.storage.local.store import LocalStore
from pipeline.storage.protocol import ObjectStore
from pipeline.storage.s3.store import S3Options, S3Store
from pipeline.storage.signed_links import LinkSigner, load_or_create_key

if TYPE_CHECKING:
    from pydantic import SecretStr

    from config import ApiSettings, Settings, StorageSettings


def open_store(settings: Settings) -> ObjectStore:
    """The store of finished stems. Raises InfrastructureError if the key that signs local links cannot be had."""
    if settings.storage.engine.value == "s3":
        return S3Store(s3_options(settings.storage))
    signer = LinkSigner(load_or_create_key(settings.state.link_key_file))
    base_url = settings.storage.result_base_url or own_address(settings.api)
    return LocalStore(settings.state.stems_dir, base_url, signer, settings.storage.result_url_ttl)


def open_handoff(settings: Settings) -> ObjectStore:
    """The store of stems on their way from processor to uploader; it serves no local links."""
    if settings.storage.handoff.value == "s3":
        return S3Store(s3_options(settings.storage))
    return LocalStore(settings.state.handoff_dir)


def s3_options(storage: StorageSettings) -> S3Options:
    """The bucket of the settings. They have been checked: there is one wherever an engine is s3."""
    assert storage.s3_bucket is not None
    return S3Options(
        bucket=storage.s3_bucket,
        region=storage.aws_region,
        endpoint_url=storage.s3_endpoint_url,
        access_key_id=_revealed(storage.aws_access_key_id),
        secret_access_key=_revealed(storage.aws_secret_access_key),
        public_domain=storage.s3_public_domain,
        url_ttl=storage.result_url_ttl,
    )


def own_address(api: ApiSettings) -> str:
    """Where a client on this machine reaches the API; an address that means "all" is reached on loopback."""
    host = {"0.0.0.0": "127.0.0.1", "::": "127.0.0.1"}.get(api.host, api.host)
    try:
        literal = isinstance(ip_address(host), IPv6Address)
    except ValueError:
        literal = False
    return f"http://[{host}]:{api.port}" if literal else f"http://{host}:{api.port}"


def _revealed(secret: SecretStr | None) -> str | None:
    return None if secret is None else secret.get_secret_value()
