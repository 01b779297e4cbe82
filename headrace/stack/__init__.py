"""The embedded stack: Redis, Flower and workers on this host, for as long as one process lives.

`Stack` starts them, waits until each is really ready, and leaves none behind, however the
process that started them ends.
"""

from headrace.stack.embedded import Stack

__all__ = ["Stack"]
