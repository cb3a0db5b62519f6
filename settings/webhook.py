"""Settings of webhooks: signature, time limit and attempts."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr

from settings.types import ADVANCED, Count, Seconds, Section


def _webhook_secret(value: SecretStr) -> SecretStr:
    """Check the Standard Webhooks form: ``whsec_`` and the base64 of 24 to 64 bytes; two during a rotation."""
    for secret in value.get_secret_value().split():
        try:
            key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
        except (binascii.Error, ValueError):
            key = b""
        if not secret.startswith("whsec_") or not 24 <= len(key) <= 64:
            raise ValueError("must be whsec_ followed by the base64 of 24 to 64 random bytes")
    return value


class WebhookSettings(Section):
    """Options of the deliveries to the clients' ``hook_url``."""

    title = "Webhooks"

    secret: Annotated[SecretStr, AfterValidator(_webhook_secret)] | None = Field(
        None,
        alias="WEBHOOK_SECRET",
        description="Secret that signs webhooks: whsec_ and the base64 of 24 to 64 random bytes. During a rotation, "
        "set the new and the old secret, separated by a space. Unset: webhooks are not signed.",
    )
    timeout: Seconds = Field(
        15.0, alias="WEBHOOK_TIMEOUT", description="Longest wait for the response of the receiver (seconds)."
    )
    max_attempts: Count = Field(
        12,
        alias="WEBHOOK_MAX_ATTEMPTS",
        description="Number of attempts before the result becomes a dead letter. RETRY_DELAYS separate them; the "
        "defaults add up to 91 minutes.",
        json_schema_extra=ADVANCED,
    )
