"""Translation of boto3's exceptions to the service's own.

Error sentences name the setting to check, never its value.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager

from boto3.exceptions import Boto3Error
from botocore import exceptions as botocore
from botocore.exceptions import BotoCoreError, ClientError
from s3transfer import exceptions as s3transfer

from pipeline.errors import ErrorCode, InfrastructureError, PermanentError, PipelineError
from pipeline.files import local_errors

_CREDENTIALS = "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
_BUCKETS = "S3_BUCKET_NAME and S3_PRIVATE_BUCKET_NAME"
_PLACE = "the S3 bucket is in another place: check AWS_REGION and S3_ENDPOINT_URL"
_EXPIRED = "the S3 credentials have expired: renew AWS_SESSION_TOKEN and the keys that belong to it"
#: Refusals that the operator can resolve, by the server's error code. The response to a HEAD request has no body, so
#: its code is the status.
_REFUSALS = {
    "NoSuchBucket": f"the S3 bucket does not exist: check {_BUCKETS}",
    "InvalidBucketName": f"the S3 bucket name is invalid: check {_BUCKETS}",
    "InvalidAccessKeyId": f"the S3 server does not know the access key: {_CREDENTIALS}",
    "XAdminUserNotFound": f"the S3 server does not know the access key: {_CREDENTIALS}",  # VersityGW's
    "SignatureDoesNotMatch": f"the S3 server refused the signature: {_CREDENTIALS}",
    "ExpiredToken": _EXPIRED,
    "ExpiredTokenException": _EXPIRED,
    "TokenRefreshRequired": _EXPIRED,
    "InvalidToken": "the S3 server refused the session token: check AWS_SESSION_TOKEN",
    "RequestTimeTooSkewed": "the S3 server refused the request's time: check this machine's clock",
    "PermanentRedirect": _PLACE,
    "IllegalLocationConstraintException": _PLACE,
    "AuthorizationHeaderMalformed": "the S3 server refused the region: check AWS_REGION",
    "301": _PLACE,
}
#: The actions in the policy of the account that each call needs. docs/how-to/object-storage.md has the whole policy.
_ACTIONS = {
    "PutObject": "s3:PutObject",
    "CopyObject": "s3:GetObject and s3:PutObject",
    "UploadPartCopy": "s3:GetObject and s3:PutObject",
    "GetObject": "s3:GetObject and s3:ListBucket",
    "HeadObject": "s3:GetObject and s3:ListBucket",
    "ListObjectsV2": "s3:ListBucket",
    "HeadBucket": "s3:ListBucket",
    "DeleteObject": "s3:DeleteObject",
    "CreateMultipartUpload": "s3:PutObject",
    "UploadPart": "s3:PutObject",
    "CompleteMultipartUpload": "s3:PutObject",
    "AbortMultipartUpload": "s3:AbortMultipartUpload",
    "CreateBucket": "s3:CreateBucket",
    "GetBucketLifecycleConfiguration": "s3:GetLifecycleConfiguration",
    "PutBucketLifecycleConfiguration": "s3:PutLifecycleConfiguration",
    "DeleteBucketLifecycle": "s3:PutLifecycleConfiguration",
}
_MISSING = frozenset({"NoSuchKey", "NotFound", "404"})
#: Transient errors with a 4xx status. A precondition fails when an object is replaced while it is read.
_TRANSIENT = frozenset(
    {
        *("SlowDown", "RequestTimeout", "Throttling", "ThrottlingException", "TooManyRequests"),
        *("PreconditionFailed", "412", "OperationAborted"),
    }
)
#: Codes of a conditional write (only if there is no object) that failed because another writer was first.
CONDITION_FAILED = frozenset({"PreconditionFailed", "412", "ConditionalRequestConflict", "OperationAborted", "409"})
#: Codes of servers that do not implement a call or one of its headers.
_NOT_SUPPORTED = frozenset({"NotImplemented", "MethodNotAllowed", "501", "405"})
#: No credentials, or a failing credential provider.
_NO_CREDENTIALS = (
    botocore.NoCredentialsError,
    botocore.PartialCredentialsError,
    botocore.CredentialRetrievalError,
    botocore.NoAuthTokenError,
    botocore.TokenRetrievalError,
)

#: The reasons why there was no response, by the first of these exceptions in the chain of causes.
_REASONS: tuple[tuple[type[Exception] | tuple[type[Exception], ...], str], ...] = (
    ((botocore.ConnectTimeoutError, botocore.ReadTimeoutError), "timeout"),
    (ssl.SSLCertVerificationError, "its certificate is not trusted"),
    (ssl.SSLError, "it does not answer in TLS"),
    (ConnectionRefusedError, "connection refused"),
    (socket.gaierror, "the host name cannot be resolved (DNS)"),
)

#: All exceptions of boto3, which have no common base class.
_LIBRARY_ERRORS = (
    ClientError,
    BotoCoreError,
    Boto3Error,
    s3transfer.RetriesExceededError,
    s3transfer.S3DownloadFailedError,
    s3transfer.S3UploadFailedError,
    s3transfer.S3CopyFailedError,
    s3transfer.S3ValidationError,
)


@contextmanager
def s3_errors() -> Iterator[None]:
    """Translate errors to InfrastructureError or, for a missing object, PermanentError (code ``object_missing``)."""
    with local_errors():
        try:
            yield
        except _LIBRARY_ERRORS as error:
            raise translate_s3_error(error) from error


def translate_s3_error(error: Exception) -> PipelineError:
    """Return the classified form of an exception of boto3.

    A connection that breaks is not distinguished from one that could not be opened.
    """
    # After an upload, boto3 wraps the server's response in an exception of its own.
    response = error if isinstance(error, ClientError) else error.__cause__ or error.__context__
    if isinstance(response, ClientError):
        return _translate_response(response)
    if isinstance(error, botocore.ProfileNotFound):
        return _configuration_error("the profile of the S3 credentials does not exist: check AWS_PROFILE")
    if isinstance(error, _NO_CREDENTIALS):
        return _configuration_error(f"there are no S3 credentials: {_CREDENTIALS}")
    if isinstance(error, botocore.ParamValidationError):
        return _configuration_error(_REFUSALS["InvalidBucketName"])
    return InfrastructureError(
        f"the S3 server cannot be reached ({connection_failure(error)}): check S3_ENDPOINT_URL",
        code=ErrorCode.STORAGE_UNAVAILABLE,
    )


def connection_failure(error: BaseException) -> str:
    """Return the reason why there was no response, in words."""
    cause: BaseException | None = error
    while cause is not None:
        for kinds, reason in _REASONS:
            if isinstance(cause, kinds):
                return reason
        cause = cause.__cause__ or cause.__context__
    return type(error).__name__


def _translate_response(error: ClientError) -> PipelineError:
    """Classify the response of the server to a call."""
    code, status, call = error_code(error), http_status(error), error.operation_name
    if code in _MISSING:
        return PermanentError("there is no such object in the store", code=ErrorCode.OBJECT_MISSING)
    if code in _REFUSALS:
        return _configuration_error(_REFUSALS[code])
    if call.startswith("AssumeRole"):
        return _configuration_error(f"the role of the S3 credentials was refused ({code}): check AWS_ROLE_ARN")
    if status in (401, 403):
        grant = f"grant {_ACTIONS[call]} in the bucket" if call in _ACTIONS else "check its permissions"
        return _configuration_error(f"the S3 server denied access to {call}: {grant}, or {_CREDENTIALS}")
    if code in _NOT_SUPPORTED:
        return _configuration_error(f"the S3 server does not support {call} as it is needed ({code})")
    if status >= 500 or status == 429 or code in _TRANSIENT:
        return InfrastructureError(
            f"the S3 server is temporarily unavailable ({code})", code=ErrorCode.STORAGE_UNAVAILABLE
        )
    return _configuration_error(f"the S3 server refused {call} ({code})")


def http_status(error: ClientError) -> int:
    """Return the status of the server's response; 0 if there was none."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def is_unsupported(error: ClientError) -> bool:
    """Return whether the server does not implement the call."""
    return error_code(error) in _NOT_SUPPORTED


def error_code(error: ClientError) -> str:
    """Return the server's error code; for a response without a body, the status."""
    return str(error.response.get("Error", {}).get("Code", ""))


def _configuration_error(sentence: str) -> InfrastructureError:
    return InfrastructureError(sentence, code=ErrorCode.STORAGE_REFUSED)
