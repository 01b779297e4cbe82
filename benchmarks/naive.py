"""The baseline: what a team writes well today, one Celery task per input.

The task loads its row, runs torch on that one input, writes the result to the same store,
and updates the row. Prefork pool, late acks, connections, engine, S3 client and model made
once per process. `predict` does what Headrace promises of a single job on a good day, and
nothing of what it promises on a bad one (fences, leases, isolation, exactly one result).

Configured by environment: NAIVE_BROKER, NAIVE_DATABASE, NAIVE_STORE, NAIVE_MODEL.
"""

from __future__ import annotations

import functools
import os
import uuid
from typing import Any

import numpy as np
import sqlalchemy as sa
from celery import Celery

from headrace.storage import ObjectStore, open_store

PREDICT = "naive.predict"


def make(broker: str | None) -> Celery:
    """A side of the queue: the worker's, or a producer's."""
    made = Celery("naive", broker=broker, set_as_current=False)
    made.conf.update(
        task_ignore_result=True,
        task_acks_late=True,
        worker_send_task_events=True,
        broker_connection_retry_on_startup=True,
    )
    return made


app = make(os.environ.get("NAIVE_BROKER"))

metadata = sa.MetaData()
jobs = sa.Table(
    "naive_jobs",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("input", sa.LargeBinary, nullable=False),
    sa.Column("result_key", sa.Text),
)


@functools.cache
def engine() -> sa.Engine:
    """One pool of connections per process."""
    url = sa.make_url(os.environ["NAIVE_DATABASE"]).set(drivername="postgresql+psycopg")
    return sa.create_engine(url)


@functools.cache
def store() -> ObjectStore:
    """One client per process."""
    return open_store(os.environ["NAIVE_STORE"])


@functools.cache
def model() -> Any:
    """One copy per process; one thread each, for there are as many processes as cores."""
    import torch

    torch.set_num_threads(1)
    return torch.export.load(os.environ["NAIVE_MODEL"]).module()


@app.task(name=PREDICT)  # type: ignore[untyped-decorator]  # Celery has no types
def predict(job: str) -> None:
    """One job."""
    import torch

    id = uuid.UUID(job)
    with engine().begin() as connection:
        data = connection.execute(sa.select(jobs.c.input).where(jobs.c.id == id)).scalar_one()
    with torch.inference_mode():
        batch = torch.from_numpy(np.frombuffer(data, np.float32).copy()).unsqueeze(0)
        output = model()(input=batch)[0].numpy()
    key = f"naive/{job}"
    store().put(key, output.tobytes())
    with engine().begin() as connection:
        connection.execute(
            sa.update(jobs).where(jobs.c.id == id).values(state="done", result_key=key)
        )


def submit_all(producing: Celery, inputs: np.ndarray[Any, np.dtype[np.float32]]) -> None:
    """Insert the rows in one statement, then publish their tasks over one connection."""
    ids = [uuid.uuid4() for _ in inputs]
    rows = [
        {"id": id, "state": "queued", "input": row.tobytes()}
        for id, row in zip(ids, inputs, strict=True)
    ]
    with engine().begin() as connection:
        connection.execute(sa.insert(jobs), rows)
    with producing.producer_or_acquire() as producer:
        for id in ids:
            producing.send_task(PREDICT, (str(id),), producer=producer, retry=False)


def unfinished() -> int:
    """How many jobs are not done."""
    with engine().begin() as connection:
        query = sa.select(sa.func.count()).where(jobs.c.state != "done")
        return int(connection.execute(query).scalar_one())
