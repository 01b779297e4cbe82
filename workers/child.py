"""The worker process: a stock Celery worker around the stations. Started by `supervisor`."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path

from celery.apps.worker import install_cry_handler
from celery.worker import state

from headrace.broker import queues
from headrace.job import WorkerId
from headrace.settings import load_settings
from workers.consumer import Consumer
from workers.pool import Mailbox, pool_for
from workers.progress import Progress
from workers.wiring import EXIT_LEFT, Host

_PR_SET_PDEATHSIG = 1
_SWITCH_SECONDS = 0.0005
"""The stations hand over to each other at every commit and every write. A thread that comes
back from one of those waits this long for another that computes; Python's default is 5 ms."""
_LOOK_SECONDS = 1.0
_PREFETCH = 4
"""Tickets in hand. Few: a ticket held here wakes nobody else."""


def main() -> int:
    """Run until drained. The supervisor tells which worker this is through the environment."""
    supervisor = int(os.environ["HEADRACE_SUPERVISOR"])
    _die_with(supervisor)
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(threadName)s %(message)s"
    )
    sys.setswitchinterval(_SWITCH_SECONDS)
    settings = load_settings()
    worker = WorkerId(os.environ["HEADRACE_WORKER_ID"])
    device = os.environ["HEADRACE_DEVICE"]
    orphan = threading.Thread(target=_outlive, args=(supervisor, settings.lease), daemon=True)
    orphan.start()
    progress = Progress(Path(os.environ["HEADRACE_PROGRESS"]))
    mailbox = Mailbox()
    host = Host(settings, worker, device, progress, mailbox.post)
    _obey_signals(host)

    from tasks.app import app

    app.loader.import_default_modules()
    celery = app.Worker(
        hostname=f"{settings.pool}-{device.replace(':', '')}-{worker[-6:]}@{socket.gethostname()}",
        pool_cls=pool_for(host, mailbox),
        consumer_cls=Consumer,
        queues=[queue.name for queue in queues(settings.pool)],
        concurrency=1,
        prefetch_multiplier=_PREFETCH,
        task_events=True,
        without_gossip=True,
        without_mingle=True,
        loglevel="WARNING",
    )
    # Celery's own handlers know no pool like ours.
    celery.install_platform_tweaks = lambda worker: install_cry_handler()
    celery.start()
    return int(celery.exitcode or 0)


def _obey_signals(host: Host) -> None:
    """SIGTERM and SIGINT drain, SIGQUIT leaves at once.

    To drain is the same however often it is asked for: who signals every process of a service,
    as systemd does, reaches the supervisor too, which passes its own on. So the second signal,
    that hurries, is the supervisor's business.
    """

    def drain(number: int, frame: object) -> None:
        state.should_stop = os.EX_OK  # Celery's loop ends when it sees that
        host.begin_drain()

    signal.signal(signal.SIGTERM, drain)
    signal.signal(signal.SIGINT, drain)
    signal.signal(signal.SIGQUIT, lambda number, frame: host.leave())


def _die_with(supervisor: int) -> None:
    """Drain when the supervisor is gone: nobody renews the lease any more."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != supervisor:
        sys.exit("the supervisor died while this process started")


def _outlive(supervisor: int, lease: float) -> None:
    """Drain for no longer than a lease when the supervisor is gone.

    By then the lease has run out, and what is not finished never will be.
    """
    while os.getppid() == supervisor:
        time.sleep(_LOOK_SECONDS)
    time.sleep(lease)
    logging.critical("the supervisor is gone, and the lease has run out: leaving")
    logging.shutdown()
    os._exit(EXIT_LEFT)


if __name__ == "__main__":
    sys.exit(main())
