"""How large a batch of each version may be where memory sets a bound, learnt by running into it."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass

from headrace.db import ceilings
from headrace.db.engine import Database
from headrace.errors import DatabaseUnavailable
from headrace.job import ModelKey
from headrace.runtimes.isolation import Overflow

_log = logging.getLogger(__name__)
_PATIENCE, _MOST_PATIENCE = 32, 4096
"""Full batches that must fit before a larger one is tried; doubled each time that one did not."""


@dataclass(frozen=True, slots=True)
class Ceiling:
    """The padded tokens that a batch may have; records, where the model does not pad.

    proven: as many did fit. held: full batches since the ceiling was last moved. A record that is
    larger by itself runs alone.
    """

    tokens: int
    proven: int
    held: int = 0
    patience: int = _PATIENCE

    def after_full(self, fitted: int, longest: int, most: int) -> Ceiling | None:
        """A batch fitted that no record could be added to. None: `most`, what the manifest
        allows, is reached, and there is no ceiling any more.
        """
        proven = max(self.proven, fitted)
        if self.held + 1 < self.patience:
            return Ceiling(self.tokens, proven, self.held + 1, self.patience)
        raised = max(self.tokens + longest, self.tokens * 5 // 4)
        return None if raised >= most else Ceiling(raised, proven, 0, self.patience)


def after_overflow(before: Ceiling | None, overflow: Overflow) -> Ceiling:
    """The ceiling when a batch did not fit: as much as is known to."""
    if before is None or before.proven >= overflow.too_many:
        return Ceiling(overflow.fits, overflow.fits)
    fits = max(before.proven, overflow.fits)
    return Ceiling(fits, fits, 0, min(2 * before.patience, _MOST_PATIENCE))


class Ceilings:
    """The ceilings on one device. Thread-safe.

    device: its kind; workers on devices of one kind start with what others learnt. The infer
    station learns, and does not wait for the job table: `load` and `save` are called by another.
    """

    def __init__(self, database: Database, device: str) -> None:
        self._database = database
        self._device = device
        self._lock = threading.Lock()
        self._known: dict[ModelKey, Ceiling | None] = {}
        self._unsaved: set[ModelKey] = set()

    def of(self, key: ModelKey) -> int | None:
        """The padded tokens that a batch of this version may have; None: no bound is known."""
        with self._lock:
            ceiling = self._known.get(key)
            return None if ceiling is None else ceiling.tokens

    def ran(
        self, key: ModelKey, *, fitted: int, longest: int, most: int, overflow: Overflow | None
    ) -> None:
        """A batch ran. fitted: padded tokens of its largest run that fitted; longest: of its
        longest record; most: what the manifest allows.
        """
        with self._lock:
            before = self._known.get(key)
            if overflow is not None:
                after: Ceiling | None = after_overflow(before, overflow)
            elif before is not None and fitted + longest > before.tokens:
                after = before.after_full(fitted, longest, most)
            else:
                return
            self._known[key] = after
            if _tokens(after) != _tokens(before):
                self._unsaved.add(key)
                _log.warning(
                    "batches of %s may have %s tokens on %s", key, _tokens(after), self._device
                )

    def load(self, key: ModelKey) -> None:
        """Start with what the job table has, the first time."""
        with self._lock:
            if key in self._known:
                return
        try:
            with self._database.read() as connection:
                tokens = ceilings.get(connection, key, self._device)
        except DatabaseUnavailable as error:
            _log.warning("cannot look up how large batches of %s may be: %s", key, error)
            return
        with self._lock:
            self._known.setdefault(key, None if tokens is None else Ceiling(tokens, tokens))

    def save(self) -> None:
        """Write down what has changed; what cannot be written is tried again the next time."""
        with self._lock:
            changed = {key: _tokens(self._known[key]) for key in self._unsaved}
            self._unsaved.clear()
        for key, tokens in changed.items():
            try:
                with self._database.write() as connection:
                    ceilings.put(connection, key, self._device, tokens)
            except DatabaseUnavailable as error:
                _log.warning("cannot write down how large batches of %s may be: %s", key, error)
                with self._lock:
                    self._unsaved.add(key)


def _tokens(ceiling: Ceiling | None) -> int | None:
    return None if ceiling is None else ceiling.tokens
