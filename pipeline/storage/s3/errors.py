"""The boundary between the exceptions of boto3 and ours. Sentences name the setting to check, never its value."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from boto3.exceptions import Boto3Error
from botocore import exceptions as botocore
from botocore.exceptions import BotoCoreError, ClientError
from s3transfer import exceptions as s3transfer

from pipeline.errors import ErrorCode, InfrastructureError, PermanentError, PipelineError
from pipeline.files import local_errors

_CREDENTIALS = "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
#: Refusals that the operator can mend, by the server's error code. A HEAD request has no body, hence no code but the
#: status.
_REFUSALS = {
    "NoSuchBucket": "the S3 bucket does not exist: check S3_BUCKET_NAME",
    "InvalidBucketName": "the S3 bucket's name is malformed: check S3_BUCKET_NAME",
    "InvalidAccessKeyId": f"the S3 server does not know the access key: {_CREDENTIALS}",
    "XAdminUserNotFound": f"the S3 server does not know the access key: {_CREDENTIALS}",  # VersityGW's
    "SignatureDoesNotMatch": f"the S3 server refused the signature: {_CREDENTIALS}",
    "RequestTimeTooSkewed": "the S3 server refused the request's time: check this machine's clock",
    "PermanentRedirect": "the S3 bucket lies elsewhere: check AWS_REGION and S3_ENDPOINT_URL",
    "AuthorizationHeaderMalformed": "the S3 server refused the region: check AWS_REGION",
    "301": "the S3 bucket lies elsewhere: check AWS_REGION and S3_ENDPOINT_URL",
}
_FORBIDDEN = f"the S3 server denied access: {_CREDENTIALS}, and what they may do in S3_BUCKET_NAME"
_MISSING = frozenset({"NoSuchKey", "NotFound", "404"})
#: Codes with a 4xx status that mean "later"; a precondition fails when an object is replaced while it is read.
_PASSING = frozenset(
    {
        *("SlowDown", "RequestTimeout", "Throttling", "ThrottlingException", "TooManyRequests"),
        *("PreconditionFailed", "412", "OperationAborted"),
    }
)
#: What a server says of a write on the condition that there is no object, when there is one or is about to be.
OVERTAKEN = frozenset({"PreconditionFailed", "412", "ConditionalRequestConflict", "OperationAborted", "409"})
#: What one says that knows no conditional writes.
UNKNOWN_TO_SERVER = frozenset({"NotImplemented", "501"})
#: No credentials at all, or a provider of credentials that fails.
_NO_CREDENTIALS = (
    botocore.NoCredentialsError,
    botocore.PartialCredentialsError,
    botocore.CredentialRetrievalError,
    botocore.NoAuthTokenError,
    botocore.TokenRetrievalError,
    botocore.ProfileNotFound,
)


#: What boto3 raises has no common base.
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
    """Raise InfrastructureError or, for an object that is not there, PermanentError (code ``object_missing``)."""
    with local_errors():
        try:
            yield
        except _LIBRARY_ERRORS as error:
            raise translate_s3_error(error) from error


def translate_s3_error(error: Exception) -> PipelineError:
    """What a failure of boto3 means for the job. A connection that breaks off is not told from one never made."""
    answer = _answer_of(error)
    if answer is not None:
        return _of_answer(answer)
    if isinstance(error, _NO_CREDENTIALS):
        return _refused(f"there are no S3 credentials: {_CREDENTIALS}")
    if isinstance(error, botocore.ParamValidationError):
        return _refused(_REFUSALS["InvalidBucketName"])
    return InfrastructureError(
        f"the S3 server cannot be reached ({type(error).__name__}): check S3_ENDPOINT_URL",
        code=ErrorCode.STORAGE_UNAVAILABLE,
    )


def answer_code(error: ClientError) -> str:
    """The server's error code; where an answer has no body, the status."""
    return str(error.response.get("Error", {}).get("Code", ""))


def _answer_of(error: BaseException) -> ClientError | None:
    """The server's answer, which boto3 wraps into an error of its own after an upload."""
    inner = error if isinstance(error, ClientError) else error.__cause__ or error.__context__
    return inner if isinstance(inner, ClientError) else None


def _of_answer(error: ClientError) -> PipelineError:
    code = answer_code(error)
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    if code in _MISSING:
        return PermanentError("there is no such object in the store", code=ErrorCode.OBJECT_MISSING)
    if code in _REFUSALS:
        return _refused(_REFUSALS[code])
    if status in (401, 403):
        return _refused(_FORBIDDEN)
    if status >= 500 or status == 429 or code in _PASSING:
        return InfrastructureError(
            f"the S3 server cannot serve at present ({code})", code=ErrorCode.STORAGE_UNAVAILABLE
        )
    return _refused(f"the S3 server refused the request ({code})")


def _refused(sentence: str) -> InfrastructureError:
    return InfrastructureError(sentence, code=ErrorCode.STORAGE_REFUSED)
