"""Settings of files and objects: folders on this machine, and the store of finished stems."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from settings.types import ADVANCED, BaseUrl, Choice, Seconds, Secret, Section, WholeSeconds

#: As long as the longest link is valid, and as messages are kept by default, s.
_RETENTION = 7 * 86_400


class StorageEngine(Choice):
    """Kind of an object store."""

    LOCAL = "local"
    S3 = "s3"


def _with_scheme(value: object) -> object:
    """Add ``https://`` to a bare domain."""
    bare = isinstance(value, str) and re.fullmatch(r"[\w.-]+(:\d+)?(/[\w./-]*)?", value)
    return f"https://{value}" if bare else value


def _retention(value: int) -> int:
    if value != 0 and value < 60:
        raise ValueError("must be at least 60 s, or 0 to keep results for ever")
    return value


class StateSettings(Section):
    """Folders on this machine, and the limits of the embedded transport."""

    title = "Local files"

    data_dir: Path = Field(
        Path(".local"),
        alias="DATA_DIR",
        description="Folder of the embedded transport's database, of the local store and of the hand-off store.",
    )
    temp_dir: Path | None = Field(
        None, alias="TEMP_DIR", description="Folder of the working files of running jobs. Unset: DATA_DIR/tmp."
    )
    output_dir: Path | None = Field(
        None, alias="OUTPUT_DIR", description="Folder of finished stems when STORAGE is local. Unset: DATA_DIR/stems."
    )
    lease_seconds: Seconds = Field(
        15.0,
        alias="EMBEDDED_LEASE",
        description="Embedded transport: time after which the job of a dead worker goes to another (seconds).",
        json_schema_extra=ADVANCED,
    )
    retention_seconds: Seconds = Field(
        7 * 86400.0,
        alias="EMBEDDED_RETENTION",
        description="Embedded transport: time for which settled messages are kept (seconds).",
        json_schema_extra=ADVANCED,
    )

    @property
    def broker_file(self) -> Path:
        """The database of the embedded transport."""
        return self.data_dir / "broker.sqlite"

    @property
    def stems_dir(self) -> Path:
        """The folder of finished stems in the local store."""
        return self.output_dir or self.data_dir / "stems"

    @property
    def handoff_dir(self) -> Path:
        """The folder of stems on their way from processor to uploader."""
        return self.data_dir / "handoff"

    @property
    def work_dir(self) -> Path:
        """The folder of the working files of running jobs."""
        return self.temp_dir or self.data_dir / "tmp"

    @property
    def link_key_file(self) -> Path:
        """The file with the key that signs links to local stems; it is created at first use."""
        return self.data_dir / "link.key"


class StorageSettings(Section):
    """The store of finished stems, and the hand-off store between processor and uploader."""

    title = "Storage of stems"

    storage: StorageEngine | None = Field(
        None,
        alias="STORAGE",
        description="Store of finished stems: local or s3. Unset: s3 if S3_BUCKET_NAME is set, else local.",
    )
    handoff: StorageEngine = Field(
        StorageEngine.LOCAL,
        alias="HANDOFF",
        description="Store through which stems go from the processor to the uploader: local (both share DATA_DIR) or "
        "s3 (a prefix of the bucket).",
    )
    s3_endpoint_url: BaseUrl | None = Field(
        None, alias="S3_ENDPOINT_URL", description="URL of the S3 server. Unset: Amazon's."
    )
    s3_bucket: str | None = Field(
        None, alias="S3_BUCKET_NAME", description="Bucket for the stems. It must exist already."
    )
    s3_private_bucket: str | None = Field(
        None,
        alias="S3_PRIVATE_BUCKET_NAME",
        description="Bucket for what clients never fetch: outcomes, stems in transit and stems that wait for the "
        "outcome. Set it if S3_PUBLIC_DOMAIN serves all of S3_BUCKET_NAME. Unset: S3_BUCKET_NAME.",
    )
    s3_addressing_style: Literal["auto", "path", "virtual"] = Field(
        "auto",
        alias="S3_ADDRESSING_STYLE",
        description="Place of the bucket's name in URLs: path (server/bucket/key), virtual (bucket.server/key), or "
        "auto: virtual for Amazon's servers and path for others.",
        json_schema_extra=ADVANCED,
    )
    s3_check_links: bool = Field(
        True,
        alias="S3_CHECK_LINKS",
        description="Fetch a link, as a client does, before the service is ready and every 10 minutes. Switch it off "
        "only if clients can reach the host of the links and the services cannot.",
        json_schema_extra=ADVANCED,
    )
    s3_public_domain: Annotated[BaseUrl, BeforeValidator(_with_scheme)] | None = Field(
        None,
        alias="S3_PUBLIC_DOMAIN",
        description="Domain under which the bucket is public. Links to stems become S3_PUBLIC_DOMAIN/key and do not "
        "expire. Unset: presigned links.",
    )
    aws_access_key_id: Secret | None = Field(
        None,
        alias="AWS_ACCESS_KEY_ID",
        description="Access key of the S3 server. Unset: boto3 searches its usual places: the profile of AWS_PROFILE, "
        "a web identity (AWS_WEB_IDENTITY_TOKEN_FILE), the role of the container or of the instance.",
    )
    aws_secret_access_key: Secret | None = Field(
        None,
        alias="AWS_SECRET_ACCESS_KEY",
        description="Secret key of the S3 server. Set both keys or neither.",
    )
    aws_session_token: Secret | None = Field(
        None, alias="AWS_SESSION_TOKEN", description="Session token of temporary keys."
    )
    aws_region: str | None = Field(
        None,
        alias="AWS_REGION",
        description="Region of the bucket. Unset: that of AWS_DEFAULT_REGION or of the profile, else us-east-1.",
    )
    result_url_ttl: WholeSeconds = Field(
        86_400,
        ge=60,
        le=604_800,
        alias="RESULT_URL_TTL",
        description="Time for which signed links to stems are valid (seconds, at most 7 days).",
    )
    result_retention: Annotated[WholeSeconds, AfterValidator(_retention)] | None = Field(
        None,
        alias="RESULT_RETENTION",
        description="Time for which finished stems and the outcomes of their tasks are kept (seconds; 0: for ever). It "
        "also limits RESULT_URL_TTL. Local stems are removed by the uploader; for a bucket, python -m "
        "deploy.make_bucket sets lifecycle rules. Unset: 7d; with S3_PUBLIC_DOMAIN, whose links do not expire, for "
        "ever.",
    )
    result_base_url: BaseUrl | None = Field(
        None,
        alias="RESULT_BASE_URL",
        description="URL under which clients reach the API, for links to local stems. Unset: API_HOST:API_PORT.",
    )

    @property
    def engine(self) -> StorageEngine:
        """The kind of the store of finished stems."""
        return self.storage or (StorageEngine.S3 if self.s3_bucket else StorageEngine.LOCAL)

    @property
    def stem_retention(self) -> int | None:
        """The time for which finished stems are kept, s; None: for ever."""
        if self.result_retention is None:
            return None if self.s3_public_domain else _RETENTION
        return self.result_retention or None

    @property
    def link_ttl(self) -> int:
        """The time for which links are valid, s: no longer than their stems are kept."""
        return min(self.result_url_ttl, self.stem_retention or self.result_url_ttl)

    @model_validator(mode="after")
    def _require_bucket_and_both_keys(self) -> Self:
        if StorageEngine.S3 in (self.engine, self.handoff) and not self.s3_bucket:
            raise ValueError("S3_BUCKET_NAME must be set when STORAGE or HANDOFF is s3")
        if (self.aws_access_key_id is None) != (self.aws_secret_access_key is None):
            raise ValueError("AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY must be set together")
        if self.aws_session_token and not self.aws_access_key_id:
            raise ValueError("AWS_SESSION_TOKEN belongs to AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY: set all three")
        if self.s3_public_domain and not self.s3_check_links and self.s3_private_bucket in (None, self.s3_bucket):
            raise ValueError(
                "S3_PRIVATE_BUCKET_NAME must be set with S3_PUBLIC_DOMAIN and without S3_CHECK_LINKS: nothing would "
                "show whether outcomes are public"
            )
        return self
