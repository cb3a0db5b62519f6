"""Lifecycle rules of the buckets: the server removes objects and unfinished uploads that are old enough.

S3 replaces all rules of a bucket at once. Rules whose ID does not start with ``uvr-api-`` are kept as they are.
"""

from __future__ import annotations

import math
from enum import StrEnum
from typing import Any

from botocore.exceptions import ClientError

from pipeline.storage.object_keys import ObjectKind, parse_key
from pipeline.storage.retention import Retention
from pipeline.storage.s3.errors import error_code, is_unsupported

Rule = dict[str, Any]

_OURS = "uvr-api-"
_DAY = 86_400.0
#: Time after which an upload that has not been completed was abandoned, days.
_ABANDONED_DAYS = 2
#: The first characters of the keys of finished stems, which begin with the UUID of their task.
_STEM_PREFIXES = "0123456789abcdef"


class LifecycleResult(StrEnum):
    """Result of setting the rules of a bucket."""

    SET = "set"
    UNCHANGED = "unchanged"
    UNSUPPORTED = "unsupported"
    """The server has no lifecycle rules."""
    SHARED = "shared"
    """Only the rules for folders were set: those for stems would remove other objects of the bucket as well."""


def private_rules(retention: Retention) -> list[Rule]:
    """Return the rules for the objects that are for the services alone."""
    leftovers = _expiration(retention.leftovers)
    abandoned = {"AbortIncompleteMultipartUpload": {"DaysAfterInitiation": _ABANDONED_DAYS}}
    rules = [_rule(name, f"{name}/", leftovers | abandoned) for name in ("handoff", "staged")]
    if retention.outcomes is not None:
        rules.append(_rule("outcomes", "outcomes/", _expiration(retention.outcomes)))
    return rules


def stem_rules(retention: Retention) -> list[Rule]:
    """Return the rules for finished stems: one for each first character, because their keys have no common prefix."""
    if retention.stems is None:
        return []
    expiration = _expiration(retention.stems)
    return [_rule(f"stems-{character}", character, expiration) for character in _STEM_PREFIXES]


def set_rules(client: Any, bucket: str, folders: list[Rule], stems: list[Rule]) -> LifecycleResult:
    """Replace the service's own rules of the bucket by these. Raises botocore's exceptions."""
    try:
        before = _current(client, bucket)
        own = {rule["ID"]: rule for rule in before["Rules"] if _is_own(rule)}
        wanted = {rule["ID"]: rule for rule in (*folders, *stems)}
        if own == wanted:
            return LifecycleResult.UNCHANGED
        is_shared = bool(stems) and _has_other_objects(client, bucket)
        kept = [rule for rule in before["Rules"] if not _is_own(rule)]
        _replace(client, bucket, before | {"Rules": [*kept, *folders, *([] if is_shared else stems)]})
    except ClientError as error:
        if is_unsupported(error):
            return LifecycleResult.UNSUPPORTED
        raise
    return LifecycleResult.SHARED if is_shared else LifecycleResult.SET


def _current(client: Any, bucket: str) -> dict[str, Any]:
    """Return the rules of the bucket, and the options that apply to all of them."""
    try:
        found = client.get_bucket_lifecycle_configuration(Bucket=bucket)
    except ClientError as error:
        if error_code(error) != "NoSuchLifecycleConfiguration":
            raise
        return {"Rules": []}
    return {name: value for name, value in found.items() if name != "ResponseMetadata"}


def _replace(client: Any, bucket: str, configuration: dict[str, Any]) -> None:
    options = dict(configuration)
    rules = options.pop("Rules")
    if rules:
        client.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration={"Rules": rules}, **options)
    else:
        client.delete_bucket_lifecycle(Bucket=bucket)


def _has_other_objects(client: Any, bucket: str) -> bool:
    """Return whether the rules for stems match an object or a folder that is not a stem."""
    pages = client.get_paginator("list_objects_v2")
    for character in _STEM_PREFIXES:
        for page in pages.paginate(Bucket=bucket, Prefix=character, Delimiter="/"):
            parsed = [parse_key(found["Key"]) for found in page.get("Contents", [])]
            if "CommonPrefixes" in page or any(key is None or key.kind is not ObjectKind.STEM for key in parsed):
                return True
    return False


def _rule(name: str, prefix: str, action: Rule) -> Rule:
    return {"ID": f"{_OURS}{name}", "Status": "Enabled", "Filter": {"Prefix": prefix}, **action}


def _expiration(seconds: float) -> Rule:
    """Return the action that removes objects after this time: S3 counts whole days, at least one."""
    return {"Expiration": {"Days": max(1, math.ceil(seconds / _DAY))}}


def _is_own(rule: Rule) -> bool:
    return str(rule.get("ID", "")).startswith(_OURS)
