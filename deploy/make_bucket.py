"""Creates the buckets of the settings unless they exist, and sets their lifecycle rules.

    python -m deploy.make_bucket

A repetition changes nothing. Rules of others are kept. Exits with an ``ExitCode``; rules that cannot be set are a
warning, because the services work without them.
"""

from __future__ import annotations

import sys

from config import ConfigError
from pipeline.errors import PipelineError
from pipeline.service.arguments import parse_service_arguments
from pipeline.service.logs import get_logger
from pipeline.service.run import load_settings
from pipeline.service.shutdown import ExitCode
from pipeline.storage.factory import s3_options
from pipeline.storage.retention import Retention
from pipeline.storage.s3.lifecycle import LifecycleResult
from pipeline.storage.s3.store import S3Store

log = get_logger("make_bucket")

#: Event and reason of the results that leave objects for ever.
_WARNINGS = {
    LifecycleResult.UNSUPPORTED: (
        "lifecycle_unsupported",
        "the S3 server has no lifecycle rules, so nothing is removed from the bucket by itself: remove old objects "
        "with a scheduled command, as docs/how-to/retention.md shows",
    ),
    LifecycleResult.SHARED: (
        "lifecycle_shared",
        "the bucket contains other objects whose names begin like those of stems, so no rules were set for stems: use "
        "a bucket for stems alone, or remove old stems with a scheduled command",
    ),
}


def main() -> ExitCode:
    """Create the buckets and set their rules, in one attempt."""
    try:
        settings = load_settings("make_bucket")
        if settings.storage.s3_bucket is None:
            raise ConfigError("S3_BUCKET_NAME must be set: it names the bucket to create.")
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return ExitCode.CONFIG
    try:
        store = S3Store(s3_options(settings.storage))
        store.ensure_bucket()
    except PipelineError as error:
        log.error("bucket_creation_failed", code=error.code, error=error.message)
        return ExitCode.UNAVAILABLE
    log.info("bucket_ready", bucket=settings.storage.s3_bucket)
    _set_lifecycle(store, Retention.from_settings(settings))
    return ExitCode.OK


def _set_lifecycle(store: S3Store, retention: Retention) -> None:
    try:
        results = store.set_lifecycle(retention)
    except PipelineError as error:
        log.warning("lifecycle_failed", code=error.code, error=error.message)
        return
    for bucket, result in results.items():
        if result in _WARNINGS:
            event, reason = _WARNINGS[result]
            log.warning(event, bucket=bucket, reason=reason)
        else:
            log.info("lifecycle_ready", bucket=bucket, result=result)


if __name__ == "__main__":
    parse_service_arguments("deploy.make_bucket", "Create the bucket of the settings unless it exists.")
    sys.exit(main())
