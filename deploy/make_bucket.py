"""Creates the bucket of the settings unless it exists: ``python -m deploy.make_bucket``. Exits with an ``ExitCode``."""

from __future__ import annotations

import sys

from config import ConfigError
from pipeline.errors import PipelineError
from pipeline.service.arguments import parse_service_arguments
from pipeline.service.logs import get_logger
from pipeline.service.run import load_settings
from pipeline.service.shutdown import ExitCode
from pipeline.storage.factory import s3_options
from pipeline.storage.s3.store import S3Store

log = get_logger("make_bucket")


def main() -> ExitCode:
    """Create the bucket, in one attempt."""
    try:
        settings = load_settings("make_bucket")
        if settings.storage.s3_bucket is None:
            raise ConfigError("S3_BUCKET_NAME must be set: it names the bucket to create.")
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return ExitCode.CONFIG
    try:
        S3Store(s3_options(settings.storage)).ensure_bucket()
    except PipelineError as error:
        log.error("bucket_creation_failed", code=error.code, error=error.message)
        return ExitCode.UNAVAILABLE
    log.info("bucket_ready", bucket=settings.storage.s3_bucket)
    return ExitCode.OK


if __name__ == "__main__":
    parse_service_arguments("deploy.make_bucket", "Create the bucket of the settings unless it exists.")
    sys.exit(main())
