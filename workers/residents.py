"""The models on this worker's device: loaded, checked and warm, least recently used out first."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from pathlib import Path

from headrace import runtimes
from headrace.job import ModelKey
from headrace.registry import golden
from headrace.registry.manifest import ModelVersion
from headrace.registry.versions import materialize
from headrace.storage import ObjectStore

_log = logging.getLogger(__name__)
_UNSERVED_SECONDS = 30.0


class Residents:
    """Used by the infer station alone, but for `unserved`.

    budget: bytes of weights to keep loaded; a model larger than that is loaded all the same,
    alone.
    """

    def __init__(
        self,
        *,
        store: ObjectStore,
        cache: Path,
        device: str,
        allow_code: frozenset[str],
        budget: int,
    ) -> None:
        self._store = store
        self._cache = cache
        self._device = device
        self._allow_code = allow_code
        self._budget = budget
        self._loaded: OrderedDict[ModelKey, runtimes.Model] = OrderedDict()
        self._unserved: dict[ModelKey, float] = {}
        self._lock = threading.Lock()

    def get(self, version: ModelVersion) -> runtimes.Model:
        """The model, ready to run.

        The first time it is downloaded, held to its digests, loaded, and run on its golden
        examples, which also warms it up. Raises HeadraceError, or whatever the model raises,
        where that fails; the version then counts as unserved for a while.
        """
        model = self._loaded.get(version.key)
        if model is not None:
            self._loaded.move_to_end(version.key)
            return model
        started = time.monotonic()
        try:
            model = self._load(version)
        except Exception:
            with self._lock:
                self._unserved[version.key] = time.monotonic() + _UNSERVED_SECONDS
            raise
        _log.info(
            "%s is loaded and reproduces its golden examples, %.1f s",
            version.key,
            time.monotonic() - started,
        )
        self._loaded[version.key] = model
        self._make_room(version.key)
        return model

    def unserved(self) -> list[ModelKey]:
        """The versions that failed to load a short while ago."""
        now = time.monotonic()
        with self._lock:
            self._unserved = {k: until for k, until in self._unserved.items() if until > now}
            return list(self._unserved)

    def fits(self, size: int) -> bool:
        """Whether another `size` bytes stay within the budget."""
        return sum(model.memory for model in self._loaded.values()) + size <= self._budget

    def close(self) -> None:
        """Unload everything."""
        while self._loaded:
            self._loaded.popitem()[1].close()

    def _load(self, version: ModelVersion) -> runtimes.Model:
        package = materialize(self._store, version, self._cache)
        model = runtimes.load(package, self._device, self._allow_code)
        golden.check(package, model)
        return model

    def _make_room(self, newest: ModelKey) -> None:
        while len(self._loaded) > 1 and not self.fits(0):
            key, model = next(iter(self._loaded.items()))
            if key == newest:
                return
            _log.info("%s makes room for %s", key, newest)
            del self._loaded[key]
            model.close()
