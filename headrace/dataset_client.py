"""The part of `headrace.Client` that is about datasets."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta

from headrace.dataset import Dataset, DatasetId, DatasetState, Spec
from headrace.errors import InvalidInput, WaitTimeout
from headrace.job import Priority
from headrace.transport import DatasetSubmission, Transport, priority_of, seconds_of

_FIRST_POLL, _LAST_POLL, _POLL_GROWTH = 0.05, 1.0, 1.25
Path = str | os.PathLike[str]
Watching = bool | Callable[[Dataset], None]
"""True for a progress bar on stderr, or a function of the dataset, called now and then."""


class DatasetCalls:
    """Calls about datasets, over a transport."""

    _transport: Transport
    _tenant: str

    def submit_dataset(
        self,
        model: str,
        input: Path,
        *,
        output: Path,
        inputs: Mapping[str, str | Sequence[str]] | None = None,
        id: str | None = None,
        carry: Sequence[str] = (),
        fetch: Sequence[str] = (),
        format: str = "parquet",
        compression: str = "",
        dedupe: bool = False,
        shard_rows: int | None = None,
        priority: Priority | str = Priority.BULK,
        deadline: datetime | timedelta | float | None = None,
    ) -> DatasetId:
        """Have the model run over every record of a file, a folder or a pattern of files.

        input: Parquet, JSON lines or CSV, the latter two plain, ``.gz`` or ``.zst``: a path or
        ``s3://bucket/…``, in which ``*`` and ``?`` stand for characters, ``**`` for folders.
        output: an empty folder, which becomes this dataset's. In the end it holds part files,
        errors files for records that failed, ``_manifest.json``, and ``_SUCCESS`` if any
        record succeeded. Local paths are those of the workers, too.
        inputs: by field of the model, the column it is in, or several of numbers that are one
        tensor (``["pixel*"]``). A field that is not named is the column of its own name.
        id: the column that names a record; without it, its file and row do.
        carry: columns to copy into the results. fetch: fields of bytes whose column has the
        path or URI of a file that holds the value.
        format: of the results, ``parquet``, ``jsonl`` or ``csv``; compression: of the latter
        two, ``gzip`` or ``zstd``. dedupe: equal records of a shard run once.
        shard_rows: records that one worker runs at a time; else as many as take some 45 s.
        priority: ``bulk``, so that single jobs go first, ``normal`` or ``high``.
        deadline: as for `submit`. What is done by then stays, and the dataset is ``expired``.

        The same call again changes nothing, or has the dataset go on that was cut short by a
        cancel, a deadline or an error. Raises InvalidInput (nothing is stored), ModelNotFound,
        DatasetExists where the output is another dataset's, DatabaseUnavailable,
        StoreUnavailable.
        """
        spec = Spec(
            input=_absolute(input),
            output=_absolute(output),
            inputs={field: _names(f"inputs.{field}", of) for field, of in (inputs or {}).items()},
            id=id,
            carry=_names("carry", carry),
            fetch=_names("fetch", fetch),
            format=format,
            compression=compression,
            dedupe=dedupe,
            shard_rows=shard_rows,
        )
        return self._transport.submit_dataset(
            DatasetSubmission(
                model, spec, priority_of(priority), seconds_of(deadline), self._tenant
            )
        )

    def dataset(self, id: DatasetId) -> Dataset:
        """The dataset as it stands, with its counts and its speed. Raises DatasetNotFound."""
        return self._transport.dataset(id)

    def datasets(
        self,
        *,
        state: DatasetState | str | Sequence[DatasetState | str] = (),
        after: DatasetId | None = None,
        limit: int = 100,
    ) -> list[Dataset]:
        """Datasets, newest first. state: only those in it. after: the last one of the page before.

        Raises InvalidInput.
        """
        names = (state,) if isinstance(state, str) else tuple(state)
        if limit < 1:
            raise InvalidInput("limit", f"expected at least 1, got {limit}")
        try:
            states = [DatasetState(name) for name in names]
        except ValueError:
            raise InvalidInput("state", f"expected one of {', '.join(DatasetState)}") from None
        return self._transport.datasets(self._tenant, states, after, limit)

    def wait_dataset(
        self, id: DatasetId, *, timeout: float | None = None, progress: Watching = False
    ) -> Dataset:
        """Wait until the dataset has ended, well or not, and its files are there.

        timeout: seconds; None waits as long as it takes. Raises WaitTimeout, DatasetNotFound.
        """
        end = None if timeout is None else time.monotonic() + timeout
        pause = _FIRST_POLL
        with _watcher(progress) as watch:
            while True:
                dataset = self._transport.dataset(id)
                watch(dataset)
                if dataset.state.ended:
                    return dataset
                left = pause if end is None else end - time.monotonic()
                if left <= 0:
                    raise WaitTimeout(1, 1, id, timeout or 0, what="datasets")
                time.sleep(min(pause, left))
                pause = min(pause * _POLL_GROWTH, _LAST_POLL)

    def cancel_dataset(self, id: DatasetId) -> bool:
        """End a dataset; False where it had ended. What is done by then stays, and is listed.

        A worker stops within a batch. Raises DatasetNotFound.
        """
        return self._transport.cancel_dataset(id)

    def rerun_failed(self, id: DatasetId) -> bool:
        """Run the failed records of a dataset again; False where there are none.

        Those that succeed now are in part files of their own. Raises DatasetNotFound, and
        DatasetNotEnded unless it ran to its end.
        """
        return self._transport.rerun_failed(id)


def _absolute(place: Path) -> str:
    """A worker's working directory is another one."""
    where = os.fspath(place)
    return where if "://" in where or not where else os.path.abspath(where)


def _names(field: str, names: str | Sequence[str]) -> tuple[str, ...]:
    found = (names,) if isinstance(names, str) else tuple(names)
    if not all(isinstance(name, str) and name for name in found):
        raise InvalidInput(field, f"expected names of columns, got {names!r}")
    return found


@contextmanager
def _watcher(progress: Watching) -> Iterator[Callable[[Dataset], None]]:
    if not progress or callable(progress):
        yield progress or (lambda dataset: None)
        return
    from rich import progress as bars
    from rich.console import Console

    columns = (
        bars.TextColumn("{task.description}"),
        bars.BarColumn(),
        bars.TextColumn("{task.fields[summary]}"),
    )
    with bars.Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("queued", total=None, summary="")

        def show(dataset: Dataset) -> None:
            bar.update(
                task,
                description=dataset.state,
                completed=dataset.done,
                # A bar without an end, as long as that is not known.
                total=dataset.total if dataset.planned_at else None,
                summary=dataset.summary,
            )

        yield show
