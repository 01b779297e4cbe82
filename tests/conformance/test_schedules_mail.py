"""E-mail through a real SMTP server, once it answers; the outbox holds it until then."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from datetime import timedelta
from email import message_from_bytes, policy
from pathlib import Path

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult

from headrace.db.engine import Database
from headrace.db.outbox import Message
from headrace.errors import ConfigError
from headrace.schedules.telling import Mail, NotSent
from tests.conformance.schedule_table import Site

MESSAGE = Message("0193", "mailto:ops@example.org", "[headrace] nightly\n: failed", "Grüße\nfrom")


class Mailbox:
    """What the server took. refuse: what it says to a receiver instead."""

    def __init__(self) -> None:
        self.mails: list = []
        self.refuse = ""

    async def handle_RCPT(self, server, session, envelope, address, options):
        if self.refuse:
            return self.refuse
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):
        mail = message_from_bytes(envelope.content, policy=policy.default)
        self.mails.append((envelope.rcpt_tos, mail))
        return "250 OK"


@pytest.fixture
def mailbox() -> Mailbox:
    return Mailbox()


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture
def server(mailbox: Mailbox, port: int) -> Iterator[Controller]:
    controller = Controller(mailbox, hostname="127.0.0.1", port=port)
    controller.start()
    yield controller
    controller.stop()


def mail(port: int, login: str = "") -> Mail:
    return Mail(f"smtp://{login}127.0.0.1:{port}", "headrace@example.org")


def test_a_message_arrives_as_it_was_written(server, mailbox: Mailbox, port: int) -> None:
    for _ in range(2):
        mail(port).send(MESSAGE)
    (receivers, first), (_, second) = mailbox.mails
    assert receivers == ["ops@example.org"]
    assert first["From"] == "headrace@example.org"
    assert first["Subject"] == "[headrace] nightly : failed"
    assert first.get_content().splitlines() == ["Grüße", "from"]
    assert first["Message-ID"] == second["Message-ID"] == "<0193@example.org>"


@pytest.mark.parametrize(("answer", "hopeless"), [("550 no such user", True), ("451 busy", False)])
def test_a_receiver_that_is_refused(
    server, mailbox: Mailbox, port: int, answer: str, hopeless: bool
) -> None:
    mailbox.refuse = answer
    with pytest.raises(NotSent) as refused:
        mail(port).send(MESSAGE)
    assert refused.value.hopeless is hopeless


def test_no_password_goes_out_in_the_clear(mailbox: Mailbox, port: int) -> None:
    seen = []

    def check(server, session, envelope, mechanism, data) -> AuthResult:
        seen.append(data)
        return AuthResult(success=True)

    open_to_all = Controller(
        mailbox, hostname="127.0.0.1", port=port, authenticator=check, auth_require_tls=False
    )
    open_to_all.start()
    try:
        with pytest.raises(NotSent, match="STARTTLS"):
            mail(port, "user:secret@").send(MESSAGE)
    finally:
        open_to_all.stop()
    assert not seen
    assert not mailbox.mails


def test_a_server_that_is_not_there_is_for_later(port: int) -> None:
    with pytest.raises(NotSent) as refused:
        mail(port).send(MESSAGE)
    assert not refused.value.hopeless


@pytest.mark.parametrize("url", ["http://x", "smtp://", "x"])
def test_an_address_of_no_mail_server_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="HEADRACE_SMTP_URL"):
        Mail(url, "headrace@example.org")


def test_what_failed_is_told_once_the_server_is_back(
    database: Database, tmp_path: Path, mailbox: Mailbox, port: int
) -> None:
    site = Site(database, tmp_path)
    site.inbox = mail(port)  # type: ignore[assignment]
    site.add(notify=["a@example.org", "b@example.org"])
    site.tick(timedelta(hours=2))  # there is no input
    controller = Controller(mailbox, hostname="127.0.0.1", port=port)
    controller.start()
    try:
        for _ in range(3):
            site.tick(timedelta(minutes=1))
    finally:
        controller.stop()
    assert sorted(receivers[0] for receivers, _ in mailbox.mails) == [
        "a@example.org",
        "b@example.org",
    ]
    assert "there is nothing to read at" in mailbox.mails[0][1].get_content()
    assert "nightly-1 of 2026-03-01 02:00 UTC: failed" in mailbox.mails[0][1]["Subject"]


def test_without_a_mail_server_messages_wait(database: Database, tmp_path: Path) -> None:
    site = Site(database, tmp_path)
    site.add()
    site.now += timedelta(hours=2)
    site.ticker_with({}).tick()
    assert len(site.messages()) == 1
    site.tick(timedelta(minutes=1))
    assert len(site.inbox.subjects) == 1
