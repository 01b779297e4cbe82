"""Guards, each of which can be taken out of the workers: then a scenario must fail.

A guard is taken out by an edit of the source as it is imported, so that what a worker runs is
what somebody would have written who left it out.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from types import CodeType, ModuleType


@dataclass(frozen=True)
class Edit:
    """old: stands once in the module's source."""

    module: str
    old: str
    new: str


@dataclass(frozen=True)
class Guard:
    """promise: what it holds. scenario: the one that fails without it."""

    promise: str
    scenario: str
    edits: tuple[Edit, ...]


GUARDS = {
    "fence": Guard(
        "a worker that lost its lease finishes nothing",
        "pause-workers",
        (
            Edit(
                "headrace.db.settling",
                """
    workers.c.stopped_at.is_(None),
    workers.c.lease_until > now(),
)
# Shared""",
                ")\n# Shared",
            ),
            Edit(
                "headrace.db.settling",
                """
            may(step, by_id=True),
            jobs.c.id == given.c["id"],
            jobs.c.attempt == given.c["attempt"],
            jobs.c.worker_id == sa.bindparam("worker"),
""",
                """
            jobs.c.id == given.c["id"],
""",
            ),
        ),
    ),
    "progress": Guard(
        "a worker that hangs loses its lease",
        "poison",
        (
            Edit("workers.supervisor", "elif why := self._stuck():", "elif why := None:"),
            Edit("workers.supervisor", " and not self._stuck():", ":"),
        ),
    ),
    "suspects": Guard(
        "a record that kills its worker is found among those that were on the device",
        "poison",
        (
            Edit(
                "workers.supervisor",
                "suspects = [] if self._spared else self._progress.suspects()",
                "suspects: list[JobId] = []",
            ),
            Edit(
                "headrace.db.workers", 'worker, named, "fell silent"', 'worker, [], "fell silent"'
            ),
        ),
    ),
    "pack-states": Guard(
        "a pack that was swept is never published",
        "sweep-packs",
        (
            Edit(
                "headrace.db.one_trip",
                """among(packs.c.id, "written"), IS_WRITING, _HELD""",
                """among(packs.c.id, "written"), _HELD""",
            ),
        ),
    ),
    "sweeper": Guard(
        "the work of a worker that died with its supervisor is freed",
        "kill-workers",
        (Edit("headrace.sweeper", "for worker in lapsed:", "for worker in lapsed[:0]:"),),
    ),
    "gap": Guard(
        "nobody loses a lease for an outage of the database",
        "lose-database",
        (
            Edit(
                "headrace.sweeper",
                "self._free() if turn.watched >= self._settings.lease else Swept()",
                "self._free()",
            ),
        ),
    ),
    "shard-fence": Guard(
        "a worker that lost its lease commits no shard",
        "datasets-pause-workers",
        (
            Edit(
                "headrace.db.shards",
                "    if connection.execute(LEASE",
                "    return\n    if connection.execute(LEASE",
            ),
            Edit(
                "headrace.db.shards",
                """
    .where(shards.c.job_id == sa.bindparam("job"), shards.c.finished_at.is_(None))
)""",
                """
    .where(shards.c.job_id == sa.bindparam("job"))
)""",
            ),
        ),
    ),
    "commit-first": Guard(
        "a file is published after its shard is committed",
        "datasets-troubled",
        (
            Edit(
                "workers.shards",
                """
        reach("shard_sealed")
""",
                """
        early = json.dumps([asdict(file) for file in written.sealed])
        closing.publish(self._database, self._settings, Finished(row.key, early))
        reach("shard_sealed")
""",
            ),
        ),
    ),
}


def take_out(name: str) -> None:
    """From now on this process imports the modules without the guard."""
    sys.meta_path.insert(0, _Finder(GUARDS[name].edits))


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, edits: Sequence[Edit]) -> None:
        self._edits = edits

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        edits = [edit for edit in self._edits if edit.module == name]
        spec = importlib.machinery.PathFinder.find_spec(name, path) if edits else None
        if spec is not None and spec.origin is not None:
            spec.loader = _Loader(name, spec.origin, edits)
        return spec


class _Loader(importlib.machinery.SourceFileLoader):
    def __init__(self, name: str, path: str, edits: Sequence[Edit]) -> None:
        super().__init__(name, path)
        self._edits = edits

    def get_code(self, fullname: str) -> CodeType:
        """Of the edited source, never of a cached file."""
        source = self.get_source(fullname)
        assert source is not None
        return self.source_to_code(edited(source, self._edits), self.path)


def edited(source: str, edits: Sequence[Edit]) -> str:
    """The source without the guard. Raises AssertionError where it is not there any more."""
    for edit in edits:
        assert source.count(edit.old) == 1, f"{edit.module} has changed: {edit.old!r}"
        source = source.replace(edit.old, edit.new)
    return source
