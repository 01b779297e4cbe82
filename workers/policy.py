"""Which of the waiting items run next. Pure: no threads, no clock, no device."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from itertools import count

from headrace.job import JobId, ModelKey
from headrace.registry.manifest import Batching
from workers.flow import Item

_Group = tuple[ModelKey, tuple[object, ...], JobId | None]


class BatchPolicy:
    """Groups items by version and shape bucket, and forms batches that are worth running.

    The most urgent item (priority, then arrival) leads the next batch. Its mates come from
    its group: more urgent ones first, then those nearest in length, within the version's
    bounds on records and padded tokens. A suspect has no mates.

    ceiling: the padded tokens that memory has room for, where that is known.
    """

    def __init__(self, ceiling: Callable[[ModelKey], int | None] = lambda _: None) -> None:
        self._ceiling = ceiling
        self._groups: dict[_Group, dict[int, Item]] = {}
        self._arrivals = count()

    def __len__(self) -> int:
        return sum(map(len, self._groups.values()))

    def add(self, items: Iterable[Item]) -> None:
        """Let the items wait."""
        for item in items:
            alone = item.unit.id if item.unit.suspect else None
            group = self._groups.setdefault((item.version.key, item.bucket, alone), {})
            group[next(self._arrivals)] = item

    def next(self, *, full_only: bool) -> list[Item] | None:
        """Take the next batch, shortest item first; None where there is none.

        full_only: for while the device is busy, when it pays to gather: only a batch that
        more items could not make larger. A suspect waits for an idle device.
        """
        if not self._groups:
            return None
        key = min(self._groups, key=lambda group: _urgency(self._groups[group]))
        group = self._groups[key]
        chosen, full = _choose(group, self._ceiling(key[0]))
        if full_only and (not full or group[chosen[0]].unit.suspect):
            return None
        batch = [group.pop(arrival) for arrival in chosen]
        if not group:
            del self._groups[key]
        return sorted(batch, key=lambda item: item.length)

    def plenty(self) -> bool:
        """Whether a whole batch waits already, so that more claims would only hoard."""
        if not self._groups:
            return False
        group = min(self._groups.values(), key=_urgency)
        version = group[_urgency(group)[1]].version
        if len(self) >= version.manifest.batching.max_records:
            return True
        return _choose(group, self._ceiling(version.key))[1]

    def drain(self) -> list[Item]:
        """Take everything, in no particular order."""
        items = [item for group in self._groups.values() for item in group.values()]
        self._groups.clear()
        return items


def _urgency(group: dict[int, Item]) -> tuple[int, int]:
    return min((item.unit.priority, arrival) for arrival, item in group.items())


def _choose(group: dict[int, Item], ceiling: int | None) -> tuple[list[int], bool]:
    """The arrivals to run together, and whether the batch is full."""
    leader = group[_urgency(group)[1]]
    if leader.unit.suspect:
        return list(group), True
    bounds: Batching = leader.version.manifest.batching
    candidates = sorted(
        group,
        key=lambda arrival: (
            group[arrival] is not leader,
            group[arrival].unit.priority,
            abs(group[arrival].length - leader.length),
            arrival,
        ),
    )
    tokens = min(bounds.max_tokens or math.inf, ceiling or math.inf)
    chosen: list[int] = []
    longest = 0
    for arrival in candidates:
        if len(chosen) == bounds.max_records:
            return chosen, True
        width = max(longest, group[arrival].length)
        if chosen and (len(chosen) + 1) * width > tokens:
            return chosen, True
        chosen.append(arrival)
        longest = width
    return chosen, len(chosen) == bounds.max_records
