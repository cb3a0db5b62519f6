"""Tests of the lifecycle rules, on a real server behind a gateway that keeps the rules: VersityGW has none."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from devstack.s3 import S3Server
from pipeline.errors import ErrorCode, InfrastructureError
from pipeline.storage.retention import Retention
from pipeline.storage.s3.lifecycle import LifecycleResult
from pipeline.storage.s3.store import S3Options, S3Store
from tests.pipeline.storage.gateway import Refusal, Request, gateway
from tests.support.buckets import new_bucket

pytestmark = pytest.mark.s3
DAY = 86_400.0
RETENTION = Retention(stems=1.5 * DAY, outcomes=7 * DAY, leftovers=8 * DAY)
UNLIMITED = Retention(stems=None, outcomes=None, leftovers=8 * DAY)
OF_OTHERS = {
    "ID": "logs",
    "Status": "Enabled",
    "Filter": {"And": {"Prefix": "logs/", "Tags": [{"Key": "kind", "Value": "log"}]}},
    "Transitions": [{"Days": 30, "StorageClass": "GLACIER"}],
}


class RuleKeeper:
    """Answers the calls for the rules of the buckets, and forwards all others."""

    def __init__(self) -> None:
        self.documents: dict[str, bytes] = {}
        self.writes = 0

    def __call__(self, request: Request) -> Refusal | None:
        bucket, _, query = request.path.lstrip("/").partition("?")
        if query != "lifecycle":
            return None
        if request.method == "GET":
            document = self.documents.get(bucket)
            return Refusal(404, "NoSuchLifecycleConfiguration") if document is None else Refusal(200, content=document)
        self.writes += 1
        if request.method == "PUT":
            self.documents[bucket] = request.body
            return Refusal(200, content=b"")
        del self.documents[bucket]
        return Refusal(204, content=b"")


@dataclass(frozen=True)
class Place:
    """A bucket behind the gateway."""

    options: S3Options
    store: S3Store
    keeper: RuleKeeper

    @property
    def client(self) -> Any:
        return self.store._client

    def rules(self, bucket: str | None = None) -> dict[str, dict[str, Any]]:
        found = self.client.get_bucket_lifecycle_configuration(Bucket=bucket or self.options.bucket)["Rules"]
        return {rule["ID"]: rule for rule in found}


@pytest.fixture
def place(s3_server: S3Server) -> Iterator[Place]:
    keeper = RuleKeeper()
    with gateway(s3_server, keeper) as url:
        options = replace(new_bucket(s3_server), endpoint_url=url)
        yield Place(options, S3Store(options), keeper)


def test_rules_cover_every_kind_of_object(place: Place) -> None:
    (result,) = place.store.set_lifecycle(RETENTION).values()
    rules = place.rules()
    assert result is LifecycleResult.SET
    assert {rule["Filter"]["Prefix"]: rule["Expiration"]["Days"] for rule in rules.values()} == {
        "handoff/": 8,
        "staged/": 8,
        "outcomes/": 7,
        **dict.fromkeys("0123456789abcdef", 2),
    }
    for name in ("handoff", "staged"):
        assert rules[f"uvr-api-{name}"]["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 2}


def test_a_repetition_changes_nothing(place: Place) -> None:
    place.store.set_lifecycle(RETENTION)
    (result,) = place.store.set_lifecycle(RETENTION).values()
    assert (result, place.keeper.writes) == (LifecycleResult.UNCHANGED, 1)


def test_rules_of_others_are_kept(place: Place) -> None:
    place.client.put_bucket_lifecycle_configuration(
        Bucket=place.options.bucket, LifecycleConfiguration={"Rules": [OF_OTHERS]}
    )
    place.store.set_lifecycle(RETENTION)
    assert place.rules()["logs"] == OF_OTHERS
    assert len(place.rules()) == 1 + 3 + 16
    place.store.set_lifecycle(UNLIMITED)
    assert place.rules().keys() == {"logs", "uvr-api-handoff", "uvr-api-staged"}
    assert place.rules()["logs"] == OF_OTHERS


def test_the_private_bucket_has_the_rules_of_its_folders(place: Place, s3_server: S3Server) -> None:
    private = new_bucket(s3_server).bucket
    store = S3Store(replace(place.options, private_bucket=private))
    assert set(store.set_lifecycle(RETENTION).values()) == {LifecycleResult.SET}
    assert {name.removeprefix("uvr-api-")[:5] for name in place.rules()} == {"stems"}
    assert place.rules(private).keys() == {"uvr-api-handoff", "uvr-api-staged", "uvr-api-outcomes"}
    store.set_lifecycle(UNLIMITED)
    assert place.options.bucket not in place.keeper.documents


@pytest.mark.parametrize("key", ["2024-backup.tar", "family/photo.jpg", "7ddae809-d426-474f-8af9-e04d3aad2205.wav"])
def test_objects_of_others_are_not_removed_with_the_stems(place: Place, tmp_path: Path, key: str) -> None:
    (tmp_path / "file").write_bytes(b"theirs")
    place.store.put(key, tmp_path / "file", content_type="audio/wav")
    (result,) = place.store.set_lifecycle(RETENTION).values()
    assert result is LifecycleResult.SHARED
    assert place.rules().keys() == {"uvr-api-handoff", "uvr-api-staged", "uvr-api-outcomes"}


def test_stems_and_other_names_do_not_count_as_shared(place: Place, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"stem")
    for key in (f"{uuid4()}_vocals.wav", "README.txt", "outcomes/x.json"):
        place.store.put(key, tmp_path / "file", content_type="audio/wav")
    assert set(place.store.set_lifecycle(RETENTION).values()) == {LifecycleResult.SET}


def test_a_server_without_rules_is_reported(s3_server: S3Server) -> None:
    assert set(S3Store(new_bucket(s3_server)).set_lifecycle(RETENTION).values()) == {LifecycleResult.UNSUPPORTED}


def test_a_missing_right_is_named(s3_server: S3Server) -> None:
    options = new_bucket(s3_server)
    with gateway(
        s3_server, lambda request: Refusal(403, "AccessDenied") if "lifecycle" in request.path else None
    ) as url:
        store = S3Store(replace(options, endpoint_url=url))
        with pytest.raises(InfrastructureError, match="s3:GetLifecycleConfiguration") as caught:
            store.set_lifecycle(RETENTION)
    assert caught.value.code is ErrorCode.STORAGE_REFUSED
