"""The worker's way into Celery's event loop, over kombu's real one."""

import threading

from kombu.asynchronous import Hub
from kombu.asynchronous.timer import Timer

from workers.pool import Mailbox

_LOOP_SLEEPS = 10.0
"""Seconds the hub may sleep with nothing to do: the most that kombu lets it."""


def test_an_ack_does_not_wait_for_the_next_message() -> None:
    # Left to itself it would wake up every second or two.
    hub = Hub(timer=Timer(max_interval=_LOOP_SLEEPS))
    hub.call_later(3600, lambda: None)
    mailbox, acked = Mailbox(), threading.Event()
    mailbox.connect(hub)
    asleep = threading.Event()
    hub.on_tick.add(asleep.set)
    loop = threading.Thread(target=hub.run_forever, daemon=True)
    loop.start()
    try:
        assert asleep.wait(_LOOP_SLEEPS)
        # As Celery does it: the answer to a ticket leaves its ack to the loop's next round.
        mailbox.post([lambda: hub.call_soon(acked.set)])
        assert acked.wait(_LOOP_SLEEPS / 2)
    finally:
        hub.stop()
        loop.join(_LOOP_SLEEPS)
        hub.close()
