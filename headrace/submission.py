"""From a submission to the rows it makes: everything is checked before anything is stored. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import uuid_utils

from headrace import payload
from headrace.db.jobs import NewJob
from headrace.errors import InvalidInput
from headrace.job import JobId
from headrace.registry.manifest import ModelVersion
from headrace.transport import Submission

MAX_RECORDS = 100_000
"""Records in one submission, which is one transaction; more belong into several."""

Key = tuple[str, str, JobId]
"""An idempotency key, the hash of what it stands for, and the job that it would make."""

_METADATA_BYTES = 16 * 1024
_FAR_AWAY = 1e10
"""Seconds; a deadline in more than 300 years is none."""


def new_jobs(
    version: ModelVersion, submission: Submission, limit: int
) -> tuple[list[NewJob], list[Key]]:
    """A row per record, and a key per row where the caller gave one.

    limit: bytes that a record may have once encoded. Raises InvalidInput.
    """
    encoded = _encode(version, submission, limit)
    rows = _rows(version, submission, encoded)
    return rows, _keys(submission, rows, encoded)


def _rows(version: ModelVersion, submission: Submission, encoded: Sequence[bytes]) -> list[NewJob]:
    metadata = _metadata(submission.metadata)
    deadline, deadline_in = deadline_of(submission.deadline)
    return [
        NewJob(
            id=JobId(str(uuid_utils.uuid7())),
            tenant=submission.tenant,
            pool=version.manifest.pool,
            model=version.key,
            priority=submission.priority,
            input=data,
            deadline=deadline,
            deadline_in=deadline_in,
            metadata=metadata,
        )
        for data in encoded
    ]


def _encode(version: ModelVersion, submission: Submission, limit: int) -> list[bytes]:
    """Every record validated and encoded, in at most `limit` bytes, before anything is stored."""
    signature = version.manifest.signature
    if submission.columns:
        count, records = signature.check_columns(submission.inputs)
    else:
        count = len(submission.inputs)
        records = (
            signature.check(record, _place(index, count))
            for index, record in enumerate(submission.inputs)
        )
    if not 0 < count <= MAX_RECORDS:
        raise InvalidInput("inputs", f"{count} records; a submission has 1 to {MAX_RECORDS}")
    encoded = []
    for index, record in enumerate(records):
        try:
            data = payload.encode(record)
        except (ValueError, TypeError) as error:
            raise InvalidInput(_place(index, count), f"cannot be stored ({error})") from None
        if len(data) > limit:
            raise InvalidInput(
                _place(index, count),
                f"{len(data)} bytes encoded; HEADRACE_MAX_INPUT allows {limit}",
            )
        encoded.append(data)
    return encoded


def _place(index: int, count: int) -> str:
    return f"inputs[{index}]" if count > 1 else "inputs"


def _keys(submission: Submission, rows: Sequence[NewJob], encoded: Sequence[bytes]) -> list[Key]:
    """(key, payload hash, job id) per record, where the caller gave a key.

    The first record has the key itself, and every hash counts the records: so a submission of
    more or fewer of the same ones is another payload.
    """
    key = submission.idempotency_key
    if key is None:
        return []
    if not 0 < len(key) <= 200 or not key.isprintable():
        raise InvalidInput("idempotency_key", "expected 1 to 200 printable characters")
    whole = hashlib.sha256(f"{submission.model}\0{len(rows)}\0".encode())
    keys = []
    for index, (data, row) in enumerate(zip(encoded, rows, strict=True)):
        digest = whole.copy()
        digest.update(data)
        keys.append((f"{key}/{index}" if index else key, digest.hexdigest(), row.id))
    return keys


def deadline_of(deadline: datetime | float | None) -> tuple[float | None, float | None]:
    """(Unix seconds, None) of an instant; (None, seconds) of a duration. Raises InvalidInput."""
    if deadline is None:
        return None, None
    if isinstance(deadline, datetime):
        if deadline.tzinfo is None:
            raise InvalidInput("deadline", "a datetime needs a time zone")
        return deadline.timestamp(), None
    if not isinstance(deadline, int | float) or not 0 < deadline < _FAR_AWAY:
        raise InvalidInput(
            "deadline",
            f"expected a datetime, or seconds from now above 0 and below {_FAR_AWAY:g}, "
            f"got {deadline!r}",
        )
    return None, float(deadline)


def _metadata(metadata: Mapping[str, Any] | None) -> str | None:
    if not metadata:
        return None
    try:
        text = json.dumps(dict(metadata), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InvalidInput("metadata", f"not a JSON object ({error})") from None
    if len(text) > _METADATA_BYTES:
        raise InvalidInput("metadata", f"{len(text)} bytes as JSON; at most {_METADATA_BYTES}")
    return text
