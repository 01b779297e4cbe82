"""Schedules over a real database, with datasets that end as a test says, at a time that it says."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import sqlalchemy as sa
import uuid_utils

from headrace.dataset import Dataset, DatasetId, Spec
from headrace.db import datasets, outbox, schedule_runs, schedules
from headrace.db.dataset_tables import datasets as table
from headrace.db.datasets import NewDataset
from headrace.db.engine import Database
from headrace.db.schedule_tables import notifications
from headrace.db.schedules import StoredVersion
from headrace.job import JobId, ModelKey
from headrace.schedule import Run, ScheduleId
from headrace.schedules import spec as specs
from headrace.schedules.order import Order
from headrace.schedules.telling import Notifier, NotSent, Teller
from headrace.schedules.ticker import Ticker
from headrace.settings import Settings

START = datetime(2026, 3, 1, tzinfo=UTC)


@dataclass
class Prepared:
    """One to insert, or one to run again."""

    new: NewDataset
    again: bool

    def start(self, connection: sa.Connection) -> DatasetId | None:
        if self.again:
            return self.new.id if datasets.run_failed(connection, self.new) else None
        return datasets.insert(connection, self.new)

    def ring(self) -> None:
        """There is no worker."""


def new_dataset(order: Order, id: str | None = None) -> NewDataset:
    return NewDataset(
        DatasetId(id or str(uuid_utils.uuid7())),
        order.tenant,
        "default",
        ModelKey(order.model, 1),
        order.priority,
        Spec(order.input, order.output),
        order.deadline and order.deadline.timestamp(),
        None,
        JobId(str(uuid_utils.uuid7())),
    )


@dataclass
class Datasets:
    """Rows of the table without workers: `Site.finish` ends them."""

    database: Database
    refused: dict[str, Exception] = field(default_factory=dict)

    def prepare(self, order: Order) -> Prepared:
        if error := self.refused.get(order.model):
            raise error
        return Prepared(new_dataset(order), again=False)

    def again(self, id: DatasetId) -> Prepared:
        dataset = self.look([id])[id]
        order = Order("m", dataset.spec.input, dataset.spec.output, dataset.priority)
        return Prepared(new_dataset(order, id), again=True)

    def look(self, ids: Sequence[DatasetId]) -> Mapping[DatasetId, Dataset]:
        with self.database.read() as connection:
            found = {id: datasets.get(connection, id) for id in ids}
        return {id: dataset for id, dataset in found.items() if dataset is not None}

    def cancel(self, id: DatasetId) -> None:
        with self.database.write() as connection:
            datasets.cancel(connection, id)

    def errors(self, id: DatasetId) -> Mapping[str, int]:
        return {"bad_row": 2}


@dataclass
class Inbox:
    """A notifier that keeps what it is sent, and fails as often as it is told to."""

    subjects: list[str] = field(default_factory=list)
    failures: int = 0

    def send(self, message: outbox.Message) -> None:
        if self.failures:
            self.failures -= 1
            raise NotSent("the server went away")
        self.subjects.append(message.subject)


class Site:
    """One database, any number of tickers, one clock."""

    def __init__(self, database: Database, folder: Path, **settings: object) -> None:
        self.database = database
        self.folder = folder
        self.now = START
        self.settings = Settings(notify=("ops@example.org",), **settings)  # type: ignore[arg-type]
        self.runs = Datasets(database)
        self.inbox = Inbox()
        self.names = itertools.count(1)

    def clock(self, connection: sa.Connection) -> float:
        schedules.turn(connection)
        return self.now.timestamp()

    def ticker(self) -> Ticker:
        return self.ticker_with({"mailto": self.inbox})

    def ticker_with(self, notifiers: Mapping[str, Notifier]) -> Ticker:
        teller = Teller(self.database, notifiers, self.clock, 0)
        return Ticker(self.database, self.runs, teller, self.settings, self.clock)

    def tick(self, after: timedelta = timedelta(0)) -> None:
        self.now += after
        self.ticker().tick()

    def add(self, **fields: object) -> ScheduleId:
        spec = specs.parse(
            {
                "cron": "0 2 * * *",
                "model": "m",
                "input": f"{self.folder}/in/{{date-1d}}/*.jsonl",
                "output": f"{self.folder}/out/{{date-1d}}",
                **fields,
            }
        )
        with self.database.write() as connection:
            at = self.clock(connection)
            id = schedules.add(connection, "", f"nightly-{next(self.names)}", at)
            self._version(connection, id, 1, at, spec)
        return id

    def edit(self, id: ScheduleId, **fields: object) -> None:
        with self.database.write() as connection:
            at = self.clock(connection)
            last = schedules.get(connection, [id])[id].versions[-1]
            spec = specs.Spec.model_validate_json(last.spec).model_copy(update=fields)
            self._version(connection, id, last.number + 1, at, spec)

    def _version(
        self, connection: sa.Connection, id: ScheduleId, number: int, at: float, spec: specs.Spec
    ) -> None:
        version = StoredVersion(number, at, spec.model_dump_json())
        schedules.add_version(connection, id, version, "somebody")
        schedules.change(connection, id, next_at=at)

    def file(self, name: str) -> None:
        """An input file, below ``in``."""
        path = self.folder / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('{"x": 1}\n')

    def files(self, first: str, days: int) -> None:
        """A file for each of some days."""
        day = datetime.fromisoformat(first)
        for number in range(days):
            self.file(f"{day + timedelta(days=number):%Y-%m-%d}/a.jsonl")

    def history(self, id: ScheduleId) -> list[Run]:
        """Oldest first."""
        with self.database.read() as connection:
            return schedule_runs.history(connection, id, 1000)[::-1]

    def told(self, id: ScheduleId) -> list[tuple[int, str]]:
        """(day, state) of each run."""
        return [(run.date.day, run.state.value) for run in self.history(id)]

    def finish(self, run: Run, state: str = "succeeded", total: int = 10, failed: int = 0) -> None:
        """Its dataset has ended so."""
        assert run.dataset is not None
        with self.database.write() as connection:
            connection.execute(
                sa.update(table)
                .where(table.c.id == run.dataset)
                .values(
                    state=state,
                    total=total,
                    succeeded=total - failed,
                    failed=failed,
                    finished_at=1.0,
                    closed_at=1.0,
                )
            )

    def finish_all(self, id: ScheduleId) -> None:
        for run in self.history(id):
            if run.state == "running":
                self.finish(run)

    def datasets(self) -> list[str]:
        """The outputs of every dataset that there is."""
        with self.database.read() as connection:
            return sorted(connection.execute(sa.select(table.c.output)).scalars())

    def messages(self) -> list[str]:
        """The subjects of all that was ever put into the outbox."""
        with self.database.read() as connection:
            rows = connection.execute(
                sa.select(notifications.c.subject).order_by(notifications.c.created_at)
            )
            return [str(subject) for subject in rows.scalars()]
