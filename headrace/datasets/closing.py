"""The end of a dataset: what is sealed is published, then come manifest and marker.

Any process may do any of it, any number of times: a worker after its last shard, whoever cancels,
and a sweeper for those that did not get to it.
"""

from __future__ import annotations

import itertools
import json
import logging
import posixpath
from collections.abc import Iterable, Iterator

from headrace.dataset import Dataset, DatasetId, DatasetState
from headrace.datasets import outputs
from headrace.datasets.outputs import Sealed
from headrace.db import closing, datasets, publishing
from headrace.db.closing import START, Place, Result
from headrace.db.engine import Database
from headrace.db.publishing import Finished
from headrace.errors import ObjectExists, OutputLost
from headrace.settings import Settings
from headrace.storage import ObjectStore

MANIFEST, SUCCESS = "_manifest.json", "_SUCCESS"
ERRORS = "errors-"
"""What the name of a file with failed records begins with."""

_PAGE = 1000
_log = logging.getLogger(__name__)


def publish(database: Database, settings: Settings, finished: Finished) -> None:
    """Have the files of a finished shard appear, and note that they are there.

    Raises StoreUnavailable, StorageError, DatabaseUnavailable; then a sweep does it later.
    """
    files = _files(finished.sealed)
    try:
        for file in files:
            outputs.publish(file, settings)
    except OutputLost as error:
        _log.warning("%s", error)
        outputs.remove((file.uri for file in files), settings)
        with database.write() as connection:
            publishing.lost(connection, finished)
    except ObjectExists as error:
        with database.write() as connection:
            datasets.fail(connection, finished.key.dataset, error.code, str(error))
        with database.write() as connection:
            publishing.lost(connection, finished)
    else:
        with database.write() as connection:
            publishing.published(connection, finished.key)


def publish_left(
    database: Database,
    settings: Settings,
    dataset: DatasetId | None = None,
    *,
    older_than: float = 0.0,
    limit: int = 100,
) -> int:
    """Publish for those who did not get to it, some at a time; returns how many shards it was.

    older_than: seconds since they were finished. Raises as `publish`.
    """
    with database.read() as connection:
        left = publishing.unpublished(connection, dataset, older_than, limit)
    for finished in left:
        publish(database, settings, finished)
    return len(left)


def close(database: Database, settings: Settings, id: DatasetId) -> Dataset | None:
    """Do what is left to do for a dataset whose records are all done, or that was cut short.

    Returns it as it has ended; None where there is more to come first, or nothing to do. Raises
    as `publish`; then the next sweep goes on.
    """
    with database.read() as connection:
        if id not in closing.closable(connection):
            return None
    stop(database, id)
    while publish_left(database, settings, id):
        pass
    with database.write() as connection:
        dataset = closing.settle(connection, id)
    if dataset is None:
        return None
    _put(MANIFEST, _manifest(database, dataset), database, dataset, settings)
    if dataset.state in (DatasetState.SUCCEEDED, DatasetState.PARTIAL):
        _put(SUCCESS, (), database, dataset, settings)
    outputs.remove(_spent(_shards(database, id)), settings)
    with database.write() as connection:
        closing.close(connection, id, dataset.run)
    return dataset


def stop(database: Database, id: DatasetId) -> None:
    """Cancel every job of a dataset, if it was cut short."""
    at: Place | None = START
    with database.read() as connection:
        dataset = datasets.get(connection, id)
    while at is not None and dataset is not None and dataset.state.ended:
        with database.write() as connection:
            at = closing.stop(connection, id, at, _PAGE)


def reopen(dataset: Dataset, settings: Settings) -> None:
    """Remove the marker, before a dataset runs again. Raises as `publish`."""
    outputs.remove([_uri(dataset, SUCCESS)], settings)


def forget(database: Database, store: ObjectStore, id: DatasetId) -> None:
    """Remove what is kept of a closed dataset; its results stay. Raises as `publish`."""
    while keys := [found.key for found in itertools.islice(store.list(kept_in(id)), _PAGE)]:
        store.delete(keys)
    gone = False
    while not gone:
        with database.write() as connection:
            gone = closing.forget(connection, id, _PAGE)


def kept_in(id: DatasetId) -> str:
    """What the keys of a dataset's own objects begin with, in the object store."""
    return f"datasets/{id}/"


def _put(
    name: str, lines: Iterable[str], database: Database, dataset: Dataset, settings: Settings
) -> None:
    """Write a file, in place of one of an earlier run, unless another has closed the dataset."""
    with outputs.open_output(_uri(dataset, name), settings) as output:
        for line in lines:
            output.write(line.encode())
        sealed = output.seal()
    with database.read() as connection:
        still_open = closing.is_open(connection, dataset.id, dataset.run)
    if still_open:
        outputs.publish(sealed, settings, over=True)
    else:
        outputs.discard(sealed, settings)


def _manifest(database: Database, dataset: Dataset) -> Iterator[str]:
    """The same text whoever writes it: JSON, an entry of each list on a line of its own."""
    about = {
        "dataset": dataset.id,
        "model": str(dataset.model),
        "state": dataset.state,
        "run": dataset.run,
        "total": dataset.total,
        "succeeded": dataset.succeeded,
        "failed": dataset.failed,
        "duplicates": dataset.duplicates,
    }
    yield json.dumps(about, indent=1).removesuffix("\n}")
    lists = {
        "inputs": _inputs(database, dataset.id),
        "parts": _parts(_shards(database, dataset.id)),
        "errors": _errors(_shards(database, dataset.id)),
    }
    for name, entries in lists.items():
        yield f",\n {json.dumps(name)}: ["
        for number, entry in enumerate(entries):
            yield (",\n  " if number else "\n  ") + json.dumps(entry)
        yield "\n ]"
    yield "\n}\n"


def _inputs(database: Database, id: DatasetId) -> Iterator[dict[str, object]]:
    after, full = -1, True
    while full:
        with database.read() as connection:
            page = closing.inputs(connection, id, after, _PAGE)
        for after, uri, size, tag in page:  # noqa: B007  # the last one is where to go on
            yield {"uri": uri, "size": size, "tag": tag}
        full = len(page) == _PAGE


def _shards(database: Database, id: DatasetId) -> Iterator[Result]:
    after, full = START, True
    while full:
        with database.read() as connection:
            page = closing.results(connection, id, after, _PAGE)
        yield from page
        full = len(page) == _PAGE
        after = page[-1].place if page else after


def _parts(shards: Iterable[Result]) -> Iterator[dict[str, object]]:
    for shard in shards:
        for file in _files(shard.sealed):
            if not _is_errors(file):
                yield {"uri": file.uri, "rows": shard.succeeded, "size": file.size}


def _errors(shards: Iterable[Result]) -> Iterator[dict[str, object]]:
    """Of every shard the last one: what ran again is either in a part since, or there."""
    for *_, last in _runs(shards):
        for file in filter(_is_errors, _files(last.sealed)):
            yield {"uri": file.uri, "rows": last.failed, "size": file.size}


def _spent(shards: Iterable[Result]) -> Iterator[str]:
    """Files that nobody needs any more: superseded errors, and pieces that hold none."""
    for *superseded, last in _runs(shards):
        for shard in superseded:
            yield from (file.uri for file in _files(shard.sealed) if _is_errors(file))
        if last.piece is not None and not last.failed:
            yield _piece(last)


def _runs(shards: Iterable[Result]) -> Iterator[list[Result]]:
    """The runs of each shard that are finished, of those that have any."""
    finished = (shard for shard in shards if shard.sealed is not None)
    for _, runs in itertools.groupby(finished, key=lambda shard: shard.place[:2]):
        yield list(runs)


def _files(sealed: str | None) -> list[Sealed]:
    kept = json.loads(sealed) if sealed else []
    return [Sealed(**file | {"parts": tuple(file["parts"])}) for file in kept]


def _is_errors(file: Sealed) -> bool:
    return posixpath.basename(file.uri).startswith(ERRORS)


def _piece(shard: Result) -> str:
    uri: str = json.loads(shard.piece or "")["uri"]
    return uri


def _uri(dataset: Dataset, name: str) -> str:
    return f"{dataset.spec.output.rstrip('/')}/{name}"
