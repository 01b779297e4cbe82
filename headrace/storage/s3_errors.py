"""What S3 said, in Headrace's words."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import urllib3
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
    ProfileNotFound,
)

from headrace.errors import (
    ConfigError,
    HeadraceError,
    ObjectExists,
    ObjectMissing,
    StorageError,
    StoreUnavailable,
)

_DENIED = {
    "AccessDenied",
    "AccountProblem",
    "AllAccessDisabled",
    "Forbidden",
    "InvalidAccessKeyId",
    "InvalidToken",
    "SignatureDoesNotMatch",
    "403",
}
_ELSEWHERE = {"PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraint"}
# Refusals that pass: a slow body, a clock that is being set, a token that is being renewed.
_PASSING = {
    "RequestTimeout",
    "RequestTimeTooSkewed",
    "ExpiredToken",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "RequestLimitExceeded",
    "TooManyRequests",
    "InternalError",
    "ServiceUnavailable",
}
_HINTS = {
    "KMS.NotFoundException": "HEADRACE_S3_SSE_KMS_KEY names no key that this server knows",
    "KMS.DisabledException": "the key of HEADRACE_S3_SSE_KMS_KEY is disabled",
}


class Conflicting(StoreUnavailable):
    """Another write to the same key was under way; who won is not known yet."""


class RangeRefused(StorageError):
    """The range starts at the end of the object or beyond."""


BROKEN = (BotoCoreError, urllib3.exceptions.HTTPError)
"""What reading a body raises where the connection breaks."""


@contextlib.contextmanager
def translated(bucket: str, key: str, of: str = "HEADRACE_STORE_URL") -> Iterator[None]:
    """Turn what boto3 raises in this block into an error of ours about `key`.

    of: where the bucket's name comes from.

    Raises ObjectMissing, ObjectExists (412), Conflicting (409), RangeRefused (416),
    StoreUnavailable, ConfigError (no usable credentials), else StorageError.
    """
    try:
        yield
    except ClientError as error:
        raise _of_answer(error.response, bucket, key, of) from error
    except (NoCredentialsError, PartialCredentialsError, ProfileNotFound) as error:
        raise ConfigError(
            f"no credentials for bucket {bucket!r} of {of}: {error}; they come from "
            "boto3's usual chain (AWS_* variables, ~/.aws, the role of the host or pod)"
        ) from error
    except ParamValidationError as error:
        raise StorageError(key, f"bucket {bucket!r} of {of}: {error}") from error
    except BROKEN as error:
        raise StoreUnavailable(f"object {key!r} in bucket {bucket!r}: {error}") from error


def refusal(
    bucket: str, key: str, code: str, message: str, of: str = "HEADRACE_STORE_URL"
) -> HeadraceError:
    """One key's error in the answer to a request about many."""
    if code in _DENIED:
        return StorageError(key, _denied(bucket, message, of))
    if code in _PASSING:
        return StoreUnavailable(f"object {key!r} in bucket {bucket!r}: {code}: {message}")
    return StorageError(key, f"bucket {bucket!r} refused it: {code}: {message}")


def _of_answer(answer: dict[str, Any], bucket: str, key: str, of: str) -> HeadraceError:
    status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    code = str(answer.get("Error", {}).get("Code", status))
    message = str(answer.get("Error", {}).get("Message", ""))
    if code == "NoSuchBucket":
        return StorageError(
            key,
            f"bucket {bucket!r} of {of} does not exist at this server; make it, or "
            f"correct {of}, HEADRACE_S3_ENDPOINT or HEADRACE_S3_ADDRESSING",
        )
    if code in ("NoSuchUpload", "ConditionalRequestConflict") or status == 409:
        return Conflicting(f"object {key!r} in bucket {bucket!r}: {code}: {message}")
    if code in ("NoSuchKey", "404") or status == 404:
        return ObjectMissing(key, f"not in bucket {bucket!r}")
    if status == 412:
        return ObjectExists(key, f"is already in bucket {bucket!r}")
    if status == 416:
        return RangeRefused(key, "the range starts beyond its end")
    if code in _ELSEWHERE or status == 301:
        return StorageError(
            key, f"bucket {bucket!r} is in another region; set HEADRACE_S3_REGION ({message})"
        )
    if code == "NotImplemented" or status == 501:
        return StorageError(
            key,
            f"the server of bucket {bucket!r} lacks what Headrace needs of S3, such as "
            f"conditional writes: {message}",
        )
    if code in _HINTS:
        return StorageError(key, f"bucket {bucket!r} refused it: {_HINTS[code]} ({message})")
    if status == 429 or status >= 500:
        return StoreUnavailable(f"object {key!r} in bucket {bucket!r}: {code}: {message}")
    if status == 403 and code not in _PASSING:
        return StorageError(key, _denied(bucket, f"{code}: {message}", of))
    return refusal(bucket, key, code, message, of)


def _denied(bucket: str, message: str, of: str) -> str:
    return (
        f"access to bucket {bucket!r} of {of} is denied ({message}); its credentials "
        "need s3:GetObject, PutObject, DeleteObject, ListBucket, AbortMultipartUpload and "
        "ListBucketMultipartUploads"
    )
