"""What the outbox holds goes out, by whatever knows the scheme of its address."""

from __future__ import annotations

import logging
import smtplib
import ssl
from collections.abc import Mapping
from email.message import EmailMessage
from email.utils import formatdate
from typing import Protocol
from urllib.parse import unquote, urlsplit

from headrace.db import outbox
from headrace.db.engine import Database
from headrace.db.outbox import Message
from headrace.errors import ConfigError
from headrace.schedules.cases import Clock
from headrace.settings import Settings

_log = logging.getLogger(__name__)
_PATIENCE = 20.0
"""Seconds that a mail server may take to answer."""
_AT_ONCE = 20


class NotSent(Exception):
    """The message did not go out. hopeless: it never will."""

    def __init__(self, why: str, hopeless: bool = False) -> None:
        super().__init__(why)
        self.hopeless = hopeless


class Notifier(Protocol):
    """Delivers messages to addresses of one scheme. Thread-safe."""

    def send(self, message: Message) -> None:
        """Deliver it; the same one may come again, under the same id. Raises NotSent."""
        ...


class Mail:
    """E-mail through one SMTP server.

    url: ``smtps://``, or ``smtp://`` with STARTTLS: always where there is a ``user:password@``,
    else where the server offers it, whoever that is. sender: the address it comes from.
    """

    def __init__(self, url: str, sender: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("smtp", "smtps") or not parts.hostname:
            raise ConfigError("HEADRACE_SMTP_URL: expected smtp://host:port or smtps://host:port")
        self._tls = parts.scheme == "smtps"
        self._host = parts.hostname
        self._port = parts.port or (465 if self._tls else 587)
        self._login = (
            (unquote(parts.username), unquote(parts.password or "")) if parts.username else None
        )
        self._sender = sender

    def send(self, message: Message) -> None:
        """Hand it to the server."""
        try:
            mail = self._mail(message)
        except ValueError as error:
            raise NotSent(str(error), hopeless=True) from error
        try:
            with self._connected() as server:
                server.send_message(mail)
        except smtplib.SMTPRecipientsRefused as error:
            codes = [code for code, _ in error.recipients.values()]
            raise NotSent(str(error), hopeless=all(code >= 500 for code in codes)) from error
        except (OSError, smtplib.SMTPException) as error:
            raise NotSent(f"{self._host}:{self._port}: {error}") from error

    def _mail(self, message: Message) -> EmailMessage:
        mail = EmailMessage()
        mail["From"] = self._sender
        mail["To"] = message.address.removeprefix("mailto:")
        mail["Subject"] = " ".join(message.subject.split())
        mail["Date"] = formatdate()
        # The same each time: a second copy can be known as one.
        mail["Message-ID"] = f"<{message.id}@{self._sender.rpartition('@')[2]}>"
        mail["Auto-Submitted"] = "auto-generated"
        mail.set_content(message.body)
        return mail

    def _connected(self) -> smtplib.SMTP:
        secure = ssl.create_default_context()
        if not self._tls and not self._login:
            # A relay in one's own house has a certificate that nobody signed.
            secure.check_hostname, secure.verify_mode = False, ssl.CERT_NONE
        if self._tls:
            server: smtplib.SMTP = smtplib.SMTP_SSL(
                self._host, self._port, timeout=_PATIENCE, context=secure
            )
        else:
            server = smtplib.SMTP(self._host, self._port, timeout=_PATIENCE)
        try:
            server.ehlo()
            if not self._tls and (self._login or server.has_extn("starttls")):
                server.starttls(context=secure)
            if self._login:
                server.login(*self._login)
        except BaseException:
            server.close()
            raise
        return server


class Teller:
    """Sends what is due. notifiers: by the scheme of the addresses that they deliver to."""

    def __init__(
        self, database: Database, notifiers: Mapping[str, Notifier], clock: Clock, keep: float
    ) -> None:
        self._database = database
        self._notifiers = notifiers
        self._clock = clock
        self._keep = keep

    def send(self) -> int:
        """Send some of what is due; returns how many went out. Raises DatabaseUnavailable."""
        told = 0
        for _ in range(_AT_ONCE):
            with self._database.write() as connection:
                message = outbox.take(connection, self._clock(connection))
            if message is None:
                break
            told += self._send_one(message)
        return told

    def _send_one(self, message: Message) -> bool:
        error: NotSent | None = None
        try:
            self._notifier(message).send(message)
        except NotSent as not_sent:
            error = not_sent
            _log.warning("%r is not sent to %s: %s", message.subject, message.address, error)
        with self._database.write() as connection:
            now = self._clock(connection)
            if error is None:
                outbox.sent(connection, message, now)
            else:
                outbox.failed(connection, message, now, str(error), error.hopeless)
            if self._keep:
                outbox.forget(connection, now - self._keep)
        return error is None

    def _notifier(self, message: Message) -> Notifier:
        scheme = message.address.partition(":")[0]
        if scheme not in self._notifiers:
            raise NotSent(f"nothing here delivers to {scheme}: (HEADRACE_SMTP_URL for mailto:)")
        return self._notifiers[scheme]


def notifiers_of(settings: Settings) -> dict[str, Notifier]:
    """Those that the settings have."""
    if settings.smtp_url is None:
        return {}
    return {"mailto": Mail(settings.smtp_url, settings.mail_from)}
