"""Which rows of a shard were on the device when workers died, and what that says. Pure."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable


class Trail:
    """What is known of a suspect shard. Rows are told by their numbers in the file.

    kept: what `text` said when the worker before this one died; None where it said nothing.
    apart: rows that run alone. nowhere: deaths with none of the rows on the device.
    """

    def __init__(self, kept: str | None) -> None:
        said = json.loads(kept) if kept else {}
        here = said.get("here", [])
        self._deaths = Counter({int(row): n for row, n in said.get("deaths", {}).items()})
        if len(here) == 1:
            self._deaths[here[0]] += 1
        self.apart = frozenset({*here, *self._deaths})
        self.nowhere: int = said.get("nowhere", 0) + (kept is not None and not here)

    def deaths(self, row: int) -> int:
        """How many workers died with this row alone on the device."""
        return self._deaths[row]

    def text(self, here: Iterable[int]) -> str:
        """What is to be kept while these rows are on the device."""
        return json.dumps({"here": [*here], "deaths": self._deaths, "nowhere": self.nowhere})
