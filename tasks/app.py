"""The Celery app of this process, for workers and Flower: ``celery -A tasks.app …``."""

from __future__ import annotations

from headrace.broker import CONTROL, NIGHTLY, SWEEP, make_app
from headrace.settings import load_settings

settings = load_settings()
app = make_app(settings, socket_timeout=None)
app.conf.imports = ("tasks.nightly", "tasks.predict", "tasks.sweep")
_every = settings.lease / 3
app.conf.beat_schedule = {
    # One that nobody took in time is of no use any more: the next one is due.
    task: {"task": task, "schedule": _every, "options": {"queue": CONTROL, "expires": _every}}
    for task in (SWEEP, NIGHTLY)
}
