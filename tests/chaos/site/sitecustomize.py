"""Imported before anything else by a Python that has this folder on its path: by the workers."""

import os
import time

_seconds = float(os.environ.get("CHAOS_CLOCK", 0))
if _seconds:
    _time, _time_ns = time.time, time.time_ns
    time.time = lambda: _time() + _seconds
    time.time_ns = lambda: _time_ns() + int(_seconds * 1e9)

_without = os.environ.get("CHAOS_WITHOUT")
if _without:
    from tests.chaos.guards import take_out

    take_out(_without)
