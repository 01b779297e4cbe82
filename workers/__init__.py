"""The GPU host, in the order that data flows: accept → batch → infer → store.

`wiring` puts the stations together, `pool` is what Celery sees of them, and `supervisor`
keeps the process honest.
"""
