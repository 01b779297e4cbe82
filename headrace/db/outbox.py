"""What is to be told to people: kept until it was sent, and tried again until then.

It is written in the transaction of what it tells of. A sender that dies between sending and
saying so sends twice: under one id, which a receiver can know it by.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import sqlalchemy as sa
import uuid_utils

from headrace.db.schedule_tables import notifications

_FIRST_PAUSE, _LAST_PAUSE = 60.0, 3600.0
_TRIES = 60
"""Two and a half days."""
_SENDING = 120.0
"""Seconds that nobody else tries what one is sending."""


@dataclass(frozen=True, slots=True)
class Message:
    """address: a URI, such as ``mailto:ops@example.org``. body: plain text."""

    id: str
    address: str
    subject: str
    body: str
    attempts: int = 0


def put(
    connection: sa.Connection,
    tenant: str,
    addresses: Iterable[str],
    subject: str,
    body: str,
    at: float,
) -> None:
    """To be sent from `at` on, one message to each."""
    rows = [
        {
            "id": str(uuid_utils.uuid7()),
            "tenant": tenant,
            "address": address,
            "subject": subject,
            "body": body,
            "created_at": at,
            "due_at": at,
        }
        for address in dict.fromkeys(addresses)
    ]
    if rows:
        connection.execute(sa.insert(notifications), rows)


def take(connection: sa.Connection, at: float) -> Message | None:
    """The oldest that is due, for this caller alone for a while. None where nothing is."""
    due = (
        sa.select(notifications.c.id)
        .where(_OPEN, notifications.c.due_at <= at)
        .order_by(notifications.c.due_at)
        .limit(1)
        .with_for_update(skip_locked=True)
        .scalar_subquery()
    )
    row = connection.execute(
        sa.update(notifications)
        .where(notifications.c.id == due, _OPEN)
        .values(due_at=at + _SENDING, attempts=notifications.c.attempts + 1)
        .returning(notifications)
    ).one_or_none()
    if row is None:
        return None
    return Message(row.id, row.address, row.subject, row.body, row.attempts)


def sent(connection: sa.Connection, message: Message, at: float) -> None:
    """It is with its receiver, as far as can be known."""
    _set(connection, message, sent_at=at, error=None)


def failed(
    connection: sa.Connection, message: Message, at: float, error: str, hopeless: bool
) -> None:
    """Try again after a pause that grows; `hopeless`, or after days of that, never."""
    if hopeless or message.attempts >= _TRIES:
        _set(connection, message, given_up_at=at, error=error)
    else:
        pause = min(_LAST_PAUSE, _FIRST_PAUSE * 2 ** min(message.attempts - 1, 10))
        _set(connection, message, due_at=at + pause, error=error)


def forget(connection: sa.Connection, before: float) -> None:
    """Remove what was sent, or given up, before then."""
    old = (notifications.c.sent_at < before) | (notifications.c.given_up_at < before)
    connection.execute(sa.delete(notifications).where(old))


_OPEN = notifications.c.sent_at.is_(None) & notifications.c.given_up_at.is_(None)


def _set(connection: sa.Connection, message: Message, **values: object) -> None:
    connection.execute(
        sa.update(notifications).where(notifications.c.id == message.id, _OPEN).values(**values)
    )
