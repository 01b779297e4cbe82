"""What runs next on the device: a batch of single jobs, or a block of the shard. Thread-safe."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable

from headrace.job import JobId
from workers.flow import Batch, Block


class Turns:
    """A batch goes first where it is more urgent than the shard; else they take turns.

    Blocks are formed ahead, so the device finds one whenever no batch is ready for it, and a
    batch waits for no more than the block that runs.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._batches: deque[tuple[Batch, float]] = deque()
        self._blocks: deque[Block] = deque()
        self._admitted: set[JobId] = set()
        self._block_was_last = False
        self._stopping = False

    def put(self, batch: Batch) -> None:
        """Let a batch run."""
        with self._changed:
            self._batches.append((batch, time.monotonic()))
            self._changed.notify()

    def admit(self, job: JobId) -> None:
        """Blocks of this shard may come."""
        with self._changed:
            self._admitted.add(job)

    def put_blocks(self, blocks: Iterable[Block]) -> None:
        """Let blocks run, in this order, unless they are of a shard that was revoked."""
        with self._changed:
            self._blocks.extend(block for block in blocks if block.job in self._admitted)
            self._changed.notify()

    def revoke(self, job: JobId) -> None:
        """No block of this shard runs any more, but the one that does."""
        with self._changed:
            self._admitted.discard(job)
            self._blocks = deque(block for block in self._blocks if block.job != job)

    def stop(self) -> None:
        """Nothing more will be put."""
        with self._changed:
            self._stopping = True
            self._changed.notify()

    def next(self) -> tuple[Batch, float] | Block | None:
        """A batch, and since when it was ready, or a block; None when there will be no more."""
        with self._changed:
            self._changed.wait_for(lambda: self._batches or self._blocks or self._stopping)
            self._block_was_last = bool(self._blocks) and not self._batch_is_next()
            if self._block_was_last:
                return self._blocks.popleft()
            return self._batches.popleft() if self._batches else None

    def _batch_is_next(self) -> bool:
        if not self._batches:
            return False
        batch, _ = self._batches[0]
        urgent = min(item.unit.priority for item in batch.items) < self._blocks[0].priority
        return urgent or self._block_was_last
