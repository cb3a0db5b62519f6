"""The settings of a topic, as a cluster reports them."""

from __future__ import annotations

from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType

from tests.support.traffic import wait_until


def topic_setting(admin: KafkaAdminClient, topic: str, name: str) -> str:
    """Return one setting. Waits until the queried broker knows the topic: its answer is empty before."""
    asked = ConfigResource(ConfigResourceType.TOPIC, topic, configs={name: None})
    found: dict[str, dict[str, str]] = {}

    def is_known() -> bool:
        found.update(admin.describe_configs([asked], config_filter="all")["topic"][topic])
        return name in found

    wait_until(is_known)
    return found[name]["value"]
