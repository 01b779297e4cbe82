"""The verdict on a scenario, from the job table, the store and the broker alone."""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import sqlalchemy as sa
from kombu import Connection

from headrace import Client, payload
from headrace.broker import queues
from headrace.dataset import DatasetId
from headrace.datasets.closing import kept_in
from headrace.db.dataset_tables import dataset_files, datasets, shards
from headrace.db.tables import jobs, now, packs, workers
from headrace.errors import HeadraceError
from headrace.job import TERMINAL, JobId, JobState
from headrace.settings import load_settings
from headrace.storage.packs import scan
from headrace.sweeper import Sweeper
from tests.chaos.load import Load
from tests.chaos.records import GOOD, Record
from tests.chaos.rig import Rig

FAILS_WITH: Mapping[str, tuple[str, str]] = {
    "raise": ("model_error", "no record {n}, please"),
    "crash": ("quarantined", "was killed by SIGSEGV"),
    "hang": ("quarantined", "over its limit of"),
    # A busy machine may be so slow to give it memory that its time is up first.
    "swell": ("quarantined", "in HEADRACE_WORKER_MEMORY|over its limit of"),
}
"""What a poisoned record ends with, by what it does: its code, and what the message matches."""

_SHOWN = 5
_READ_AT_ONCE = 500
_DAYS, _DAY = 50, 24 * 3600.0
_EAGER = {"lease": 0.6}
"""Of a sweeper that sweeps five times a second."""


@dataclass
class Verdict:
    """lost: jobs that are gone, never ended, or have no result. duplicated: jobs and results
    too many. wrong: jobs that ended as they should not, wrong results, leftovers.
    complaints: a few words on each.
    """

    lost: int = 0
    duplicated: int = 0
    wrong: int = 0
    complaints: list[str] = field(default_factory=list)

    def complain(self, kind: str, what: str, cases: Iterable[object]) -> None:
        """Count the cases, and tell of a few."""
        found = list(cases)
        if found:
            setattr(self, kind, getattr(self, kind) + len(found))
            shown = "; ".join(map(str, found[:_SHOWN])) + ("; …" if len(found) > _SHOWN else "")
            self.complaints.append(f"{kind}: {len(found)} {what}: {shown}")


def judge(rig: Rig, load: Load, verdict: Verdict) -> None:
    """Everything was mended, all had time to come to rest, and no worker runs any more.

    Where all is well, it ends with a table and a store that are empty.
    """
    with rig.database.read() as connection:
        rows = {row.id: row for row in connection.execute(_JOBS, {"pool": rig.pool})}
    verdict.complain("lost", "jobs gone", load.submitted.keys() - rows.keys())
    verdict.complain("duplicated", "jobs too many", _surplus(rows, load))
    verdict.complain("duplicated", "jobs made again under one key", range(load.doubled))
    known = {id: record for id, record in load.submitted.items() if id in rows}
    unended = {id: rows[id] for id in known if rows[id].state not in TERMINAL}
    verdict.complain("lost", "jobs never ended", unended.values())
    badly = [
        f"{known[id].op}: {rows[id]}"
        for id in known.keys() - unended.keys()
        if not _ended_well(id, known[id], rows[id], load)
    ]
    verdict.complain("wrong", "jobs ended as they should not", badly)
    succeeded = {id: r for id, r in known.items() if rows[id].state == JobState.SUCCEEDED}
    _judge_what_clients_read(rig, succeeded, verdict)
    _judge_packs(rig, rows, succeeded, verdict)
    verdict.complain("wrong", "left over", _after_days(rig, _litter))
    verdict.complain("wrong", "noticed on the way", rig.problems)
    if not verdict.complaints:
        old = _after_days(rig, _remains, retention=0.01)
        verdict.complain("wrong", "left when all jobs were too old", old)


def unfinished(rig: Rig) -> list[str]:
    """What workers have still to do when every job has ended."""
    lapsed = sa.select(workers.c.id).where(
        workers.c.stopped_at.is_(None), workers.c.lease_until <= now()
    )
    writing = sa.select(packs.c.key).where(
        packs.c.state == "writing", packs.c.worker_id.is_not(None)
    )
    with rig.database.read() as connection:
        left = [f"lapsed lease {id}" for id in connection.execute(lapsed).scalars()]
        left += [f"writing pack {key}" for key in connection.execute(writing).scalars()]
    return left + ["ticket"] * tickets(rig)


def _litter(rig: Rig) -> list[str]:
    """What nobody needs, or is not where a row says it is."""
    with rig.database.read() as connection:
        held = connection.execute(sa.select(workers.c.id).where(workers.c.stopped_at.is_(None)))
        left = [f"lease {id}" for id in held.scalars()]
        found = connection.execute(sa.select(packs.c.key, packs.c.state)).all()
        inputs = connection.execute(sa.select(jobs.c.input_key).distinct()).scalars()
        named = set(inputs) - {None}
        ids = connection.execute(sa.select(datasets.c.id)).scalars()
        # Pieces, and those that a plan which died never got to tell of: they go with the dataset.
        kept = tuple(kept_in(DatasetId(id)) for id in ids)
    found_keys = {info.key for info in rig.store.list()} - rig.model_objects
    objects = {key for key in found_keys if not key.startswith(kept)}
    live = {pack.key for pack in found if pack.state == "live"}
    left += [f"{pack.state} pack {pack.key}" for pack in found if pack.state != "live"]
    left += [f"row without its object {key}" for key in sorted((live | named) - objects)]
    return left + [f"object without a row {key}" for key in sorted(objects - live - named)]


def _remains(rig: Rig) -> list[str]:
    """What there is when every job ended too long ago: say, packs that count their jobs wrongly."""
    with rig.database.read() as connection:
        left = [f"job {id}" for id in connection.execute(sa.select(jobs.c.id)).scalars()]
        found = connection.execute(sa.select(packs.c.key, packs.c.jobs)).all()
        for table in (datasets, dataset_files, shards):
            count = connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()
            left += [f"a row of {table.name}"] * count
    left += [f"pack {pack.key}, of {pack.jobs} jobs" for pack in found]
    objects = {info.key for info in rig.store.list()} - rig.model_objects
    return left + [f"object {key}" for key in sorted(objects)]


def _after_days(
    rig: Rig, left: Callable[[Rig], list[str]], *, retention: float | None = None
) -> list[str]:
    """What is left once sweeps had the time that they need. retention: seconds; None: as ever."""
    settings = {} if retention is None else {"retention": retention}
    sweeper = Sweeper(rig.database, rig.store, load_settings(**rig.settings | _EAGER | settings))
    for _ in range(_DAYS):
        with rig.database.write() as connection:
            for table, names in ((packs, ("created_at", "delete_at")), (jobs, ("finished_at",))):
                earlier = {name: table.c[name] - _DAY for name in names}
                connection.execute(sa.update(table).values(**earlier))
        rig.until("a sweep", lambda: sweeper.sweep() is not None)
        if not (found := left(rig)):
            break
    return found


def tickets(rig: Rig) -> int:
    """How many wait in the pool's queues."""
    count = 0
    with Connection(rig.broker.url) as connection:
        for queue in queues(rig.pool):
            # Redis has no empty lists, and kombu calls those missing.
            with contextlib.suppress(connection.channel_errors), connection.channel() as channel:
                count += channel.queue_declare(queue.name, passive=True).message_count
    return count


def unended(rig: Rig) -> int:
    """How many jobs are still to end."""
    with rig.database.read() as connection:
        return int(connection.execute(_UNENDED).scalar_one())


# Not those that stand for a dataset's shards.
_JOBS = sa.select(
    *(jobs.c[n] for n in "id state attempt error_code error_message pack_id".split())
).where(jobs.c.pool == sa.bindparam("pool"))
_UNENDED = sa.select(sa.func.count()).where(jobs.c.state.not_in([str(s) for s in TERMINAL]))


def _surplus(rows: Mapping[JobId, sa.Row], load: Load) -> list[JobId]:
    """Jobs that nobody submitted, less those that failed calls may have made."""
    return sorted(rows.keys() - load.submitted.keys())[load.unsure :]


def _ended_well(id: JobId, record: Record, row: sa.Row, load: Load) -> bool:
    if row.state == JobState.CANCELLED:
        return id in load.cancelled or id in load.perhaps_cancelled
    if id in load.cancelled:
        return False
    if record.op == GOOD:
        return row.state == JobState.SUCCEEDED
    code, words = FAILS_WITH[record.op]
    said = re.search(words.format(n=record.n), row.error_message or "")
    return (row.state, row.error_code) == (JobState.FAILED, code) and said is not None


def _judge_what_clients_read(rig: Rig, succeeded: Mapping[JobId, Record], verdict: Verdict) -> None:
    ids = list(succeeded)
    with Client(transport=rig.service()) as client:
        for start in range(0, len(ids), _READ_AT_ONCE):
            chunk = ids[start : start + _READ_AT_ONCE]
            try:
                results = client.results(chunk)
            except HeadraceError as error:
                verdict.complain("lost", f"results that cannot be read, as {error}", chunk)
                continue
            wrong = [
                id
                for id, result in zip(chunk, results, strict=True)
                if result != succeeded[id].right
            ]
            verdict.complain("wrong", "results as clients read them", wrong)


def _judge_packs(
    rig: Rig, rows: Mapping[JobId, sa.Row], succeeded: Mapping[JobId, Record], verdict: Verdict
) -> None:
    """By the packs' own bytes, whatever the table says of them."""
    live = sa.select(packs.c.id, packs.c.key).where(
        packs.c.state == "live",
        packs.c.key.startswith("results/"),  # others hold inputs
    )
    with rig.database.read() as connection:
        found = connection.execute(live).all()
    stored: Counter[JobId] = Counter()
    for pack, key in found:
        try:
            entries = list(scan(rig.store.get(key), key))
        except HeadraceError as error:
            verdict.complain("lost", "packs that cannot be read", [error])
            continue
        for id, data in entries:
            if id not in succeeded:
                continue  # cancelled while it ran
            stored[id] += 1
            if payload.decode(data) != succeeded[id].right:
                verdict.complain("wrong", "results in packs", [id])
            if rows[id].pack_id != pack:
                verdict.complain("wrong", "results that are not where their job says", [id])
    verdict.complain("lost", "results in no live pack", succeeded.keys() - stored.keys())
    twice = [id for id, count in stored.items() if count > 1]
    verdict.complain("duplicated", "results in two live packs", twice)
