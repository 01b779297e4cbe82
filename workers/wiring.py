"""Puts the stations together: accept → batch → infer → store."""

from __future__ import annotations

import logging
import math
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from headrace.dataset import PLANS, SHARDS
from headrace.db import work, workers
from headrace.db.engine import Database, retrying
from headrace.db.listen import Listener
from headrace.db.units import Again
from headrace.errors import DatabaseUnavailable, LeaseLost
from headrace.job import JobId, WorkerId
from headrace.knocks import door
from headrace.registry.versions import stable_of_pool
from headrace.settings import Settings
from headrace.storage import open_store
from workers.accept import Accept
from workers.batch import BatchUp, new_packs
from workers.ceilings import Ceilings
from workers.flow import Item
from workers.infer import Infer
from workers.plan import PlanStation
from workers.progress import Progress
from workers.residents import Residents
from workers.shards import Shards
from workers.station import Station
from workers.store import Store
from workers.tickets import Tickets
from workers.turns import Turns
from workers.waiting import Waiting

_log = logging.getLogger(__name__)
EXIT_CRASHED = 70
EXIT_LEFT = 128 + signal.SIGQUIT
_FAREWELL_SECONDS = 3.0
_PLAN_SECONDS = 5.0
_STORING = 3
"""Batches on their way out at once, so that the device waits neither for the store, which may
take tens of milliseconds, nor for a commit."""


class Host:
    """One device's stations, from the first claim to the last finish.

    The supervisor has registered `worker` and holds its lease.
    """

    def __init__(
        self,
        settings: Settings,
        worker: WorkerId,
        device: str,
        progress: Progress,
        post: Callable[[list[Callable[[], object]]], None],
    ) -> None:
        self._settings = settings
        self._worker = worker
        self._progress = progress
        self._database = Database(settings.database_url)
        store = open_store(settings)
        self.tickets = Tickets(post)
        self._door = Listener(
            self._database, door(worker), lambda _: self.tickets.wake(), idle=math.inf
        )
        ceilings = Ceilings(self._database, _kind(device))
        self._waiting = Waiting(ceilings.of)
        self._residents = Residents(
            store=store,
            cache=settings.cache_dir,
            device=device,
            allow_code=settings.allow_code,
            budget=settings.model_memory,
        )
        self._turns = Turns()
        self._infer = Infer(
            residents=self._residents,
            waiting=self._waiting,
            turns=self._turns,
            progress=progress,
            ceilings=ceilings,
            to_store=lambda ran: self._store.put(ran),
            still_wanted=lambda batch: self._batch.still_wanted(batch),
        )
        naming = threading.Lock()
        self._store = Store(
            database=self._database,
            store=store,
            worker=worker,
            inline=settings.inline_result,
            max_attempts=settings.max_attempts,
            on_device=self._infer.on_device,
            naming=naming,
            new_packs=new_packs,
            settled=self._settled,
            encoding=progress.encoding,
        )
        self._batch = BatchUp(
            database=self._database,
            worker=worker,
            waiting=self._waiting,
            to_infer=self._infer.put,
            on_device=self._infer.on_device,
            naming=naming,
            dropped=lambda ids: self._settled(ids, 0.0),
        )
        self._plans = PlanStation(
            database=self._database,
            store=store,
            settings=settings,
            worker=worker,
            settled=self._unit_settled,
        )
        self._shards = Shards(
            database=self._database,
            settings=settings,
            worker=worker,
            turns=self._turns,
            ceilings=ceilings,
            begins=self._shard_begins,
            on_device=self._infer.on_device,
            naming=naming,
            others=lambda: self._infer.other_seconds,
            settled=self._unit_settled,
            reading=progress.reading,
        )
        self._accept = Accept(
            database=self._database,
            store=store,
            worker=worker,
            pool=settings.pool,
            poll=settings.poll,
            tickets=self.tickets,
            waiting=self._waiting,
            ceilings=ceilings,
            unserved=self._residents.unserved,
            expect=self._infer.expect,
            naming=naming,
            to_store=self._store.put,
            tick=progress.tick,
            slots={PLANS: self._plans, SHARDS: self._shards},
        )
        self._stations = {
            "accept": Station("accept", self._accept.step, self._crash_at(self._accept)),
            "batch": Station("batch", self._batch.step, self.crash),
            "infer": Station("infer", self._infer.step, self._crash_at(self._infer)),
            "plan": Station("plan", self._plans.step, self.crash),
            "shards": Station("shards", self._shards.step, self.crash),
        }
        self._storing = [
            Station("store", self._store.step, self._crash_at(self._store)) for _ in range(_STORING)
        ]
        self._told: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._starting = threading.Lock()
        self._warm = False
        self._drained = threading.Event()
        threading.Thread(target=self._drain_when_told, name="drain", daemon=True).start()

    def start(self) -> None:
        """Warm up in the device's thread, then take work; returns when warm."""
        stable = stable_of_pool(self._database, self._settings.pool)
        warm = threading.Event()
        self._infer.warm_up_first(stable, warm.set)
        self._stations["infer"].start()
        warm.wait()
        retrying(self._ready)
        with self._starting:
            for station in self._storing:
                station.start()
            for name in ("batch", "plan", "shards", "accept"):
                self._stations[name].start()
            self._door.listen()
            self._warm = True
        _log.info("worker %s takes jobs of pool %s", self._worker, self._settings.pool)

    def _ready(self) -> None:
        with self._database.write() as connection:
            workers.ready(connection, self._worker)

    def begin_drain(self) -> None:
        """Claim no more, finish the batch on the device, give the rest back; then leave.

        Fit for a signal handler, and to be called again.
        """
        self._told.put(None)

    def drained(self) -> bool:
        """Whether the drain is over."""
        return self._drained.is_set()

    def leave(self) -> None:
        """End this process now, in the middle of its batch; nobody's job is to blame for it.

        Fit for a signal handler.
        """
        self._progress.last_words("was told to leave at once", ())
        os._exit(EXIT_LEFT)

    def info(self) -> dict[str, Any]:
        """Figures for ``celery inspect stats`` and Flower: processor seconds by station."""
        cpu = {name: station.cpu_seconds for name, station in self._stations.items()}
        cpu["store"] = sum(station.cpu_seconds for station in self._storing)
        return {
            "worker": self._worker,
            "jobs": self._store.jobs,
            "batches": self._store.batches,
            "cpu_seconds": _rounded(cpu),
            "seconds": {
                name: _rounded(shifts.seconds)
                for name, shifts in {"infer": self._infer.shifts, **self._shards.shifts}.items()
            },
        }

    def crash(self, error: BaseException, blamed: Sequence[JobId] = ()) -> None:
        """A station is broken, or the device is: leave at once.

        The supervisor sees the process go, and frees its work within a fraction of a second.
        blamed: the jobs that the station was at.
        """
        _log.critical("worker %s leaves: %s", self._worker, error)
        said = next(iter(str(error).splitlines()), "")
        why = f"crashed ({type(error).__name__}: {said})"
        self._progress.last_words(why, () if isinstance(error, LeaseLost) else blamed)
        logging.shutdown()
        os._exit(EXIT_CRASHED)

    def _crash_at(self, station: Accept | Infer | Store) -> Callable[[BaseException], None]:
        return lambda error: self.crash(error, station.in_hand)

    def _settled(self, ids: Collection[JobId], seconds: float) -> None:
        self.tickets.settled(ids, seconds)
        self._waiting.settled(ids)

    def _unit_settled(self, id: JobId) -> None:
        """A slot is free again."""
        self.tickets.settled([id], 0.0)
        self._accept.slot_is_free()

    def _shard_begins(self, job: JobId | None) -> None:
        self._waiting.beside_shard(job is not None)
        self._infer.shard(job)

    def _drain_when_told(self) -> None:
        self._told.get()
        with self._starting:
            if not self._warm:
                os._exit(0)  # it holds nothing yet
        try:
            self._drain_all()
        except BaseException as error:  # noqa: BLE001  # nothing may get lost here
            self.crash(error)
        self._drained.set()
        # What is left is to take leave of the broker, which may hang.
        time.sleep(_FAREWELL_SECONDS)
        os._exit(0)

    def _drain_all(self) -> None:
        self._infer.refuse()
        self._shards.refuse()
        self._door.close()
        self._accept.stop()
        self._give_back(self._waiting.close())
        self._note_drain()
        self._stations["accept"].join()
        self._plans.stop()
        self._shards.stop()
        self._stations["batch"].join()
        self._give_back(self._waiting.close())  # what a claim brought meanwhile
        self._stations["shards"].join()
        self._infer.stop()
        self._stations["infer"].join()
        self._store.stop()
        for station in self._storing:
            station.join()
        # One that is at a large file leaves it to the supervisor to give the plan back.
        self._stations["plan"].join(_PLAN_SECONDS)
        self._residents.close()
        self._database.close()

    def _note_drain(self) -> None:
        try:
            with self._database.single() as connection:
                workers.draining(connection, self._worker)
        except DatabaseUnavailable as error:
            _log.warning("draining, though the job table cannot be told: %s", error)

    def _give_back(self, items: list[Item]) -> None:
        if not items:
            return
        units = [Again(i.unit.id, i.unit.attempt, 0.0, counted=False) for i in items]
        try:
            with self._database.write() as connection:
                work.settle(connection, self._worker, units)
        except DatabaseUnavailable as error:
            _log.warning("unstarted jobs wait for the end of the lease: %s", error)
            return
        self.tickets.settled([unit.id for unit in units], 0.0)
        _log.info("gave %d unstarted jobs back", len(units))


def _rounded(seconds: Mapping[str, float]) -> dict[str, float]:
    return {name: round(some, 3) for name, some in seconds.items()}


def _kind(device: str) -> str:
    """What devices of equal memory have in common: a GPU's name, or ``cpu``."""
    if not device.startswith("cuda"):
        return device
    try:
        import torch

        return torch.cuda.get_device_name(device)[:128]
    except (ImportError, RuntimeError, AssertionError):
        return "cuda"
