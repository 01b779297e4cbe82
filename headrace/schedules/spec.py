"""What one schedule asks for: checked as a whole before any of it is stored. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, time, timedelta
from itertools import islice, takewhile
from typing import Annotated, Any, Literal, Self
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from headrace.errors import InvalidInput
from headrace.job import Priority
from headrace.schedules import cron as crons
from headrace.schedules.order import Order
from headrace.schedules.template import render

_UNITS = {"s": 1, "min": 60, "h": 3600, "d": 86400}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(s|min|h|d)")
_A_YEAR, _MANY = timedelta(days=366), 10_000
"""Whose output folders are compared: every hour's of a year, clock changes among them."""

Duration = Annotated[str, Field(pattern=r"^\d+(\.\d+)?(s|min|h|d)$")]
"""``90s``, ``15min``, ``4h`` or ``2d``."""
Clock = Annotated[str, Field(pattern=r"^([01]\d|2[0-3]):[0-5]\d$")]
"""``06:00``, by the clock of the schedule's zone."""
Address = Annotated[str, Field(pattern=r"^[^@\s<>,]+@[^@\s<>,]+$", max_length=254)]


class Spec(BaseModel):
    """One version of a schedule. The names are those of schedules.toml and of the options.

    catch_up: of dates missed, run none, the last, or all. overlap: what a date does that is due
    while `at_a_time` runs are not over: queue, skip itself, or cancel them.
    wait_for: a marker beside the input, or a number of files, before which no run begins;
    late_after: how long it waits. empty: what no input at all means.
    done_by: a time of day, or a duration from the date on, after which the results are of no use.
    retries: how often what failed of a run is run again, each `retry_after` the one before.
    dataset: what else `submit_dataset` takes, by its names.
    slow: times the median of its last runs at which one is slow. partial: the share of failed
    records above which somebody is told.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    cron: str
    tz: str = "UTC"
    model: str = Field(min_length=1, max_length=160)
    input: str = Field(min_length=1, max_length=1000)
    output: str = Field(min_length=1, max_length=1000)
    catch_up: Literal["none", "last", "all"] = "last"
    overlap: Literal["queue", "skip", "cancel"] = "queue"
    at_a_time: int = Field(1, ge=1, le=1000)
    priority: Literal["high", "normal", "bulk"] = "bulk"
    wait_for: Annotated[int, Field(ge=1)] | Annotated[str, Field(pattern=r"^[\w.-]+$")] | None = (
        None
    )
    late_after: Duration = "1d"
    empty: Literal["fail", "skip"] = "fail"
    done_by: Clock | Duration | None = None
    retries: int = Field(0, ge=0, le=100)
    retry_after: Duration = "5min"
    dataset: dict[str, Any] = Field(default_factory=dict)
    notify: tuple[Address, ...] = ()
    slow: float | None = Field(3.0, gt=1)
    partial: float = Field(0.0, ge=0, le=1)

    @model_validator(mode="after")
    def _has_dates(self) -> Self:
        crons.check_cron(self.cron)
        crons.check_zone(self.tz)
        return self

    @property
    def zone(self) -> ZoneInfo:
        """Its time zone."""
        return ZoneInfo(self.tz)

    @property
    def urgency(self) -> Priority:
        """The priority of its datasets."""
        return Priority[self.priority.upper()]

    def input_at(self, date: datetime) -> str:
        """The input of that date."""
        return render(self.input, date.astimezone(self.zone), "input")

    def output_at(self, date: datetime) -> str:
        """The folder of that date, in which every run has one of its own; without a slash."""
        return render(self.output, date.astimezone(self.zone), "output").rstrip("/")

    def order(self, date: datetime) -> Order:
        """The dataset of that date, but for whose it is, and the folder of the run."""
        return Order(
            model=self.model,
            input=self.input_at(date),
            output=self.output_at(date),
            priority=self.urgency,
            options=self.dataset,
        )

    def deadline_at(self, date: datetime) -> datetime | None:
        """When the run of that date is to be done."""
        if self.done_by is None:
            return None
        if ":" not in self.done_by:
            return date + timedelta(seconds=seconds(self.done_by))
        local = date.astimezone(self.zone)
        done = datetime.combine(local.date(), time.fromisoformat(self.done_by), self.zone)
        return done if done > local else done + timedelta(days=1)


def parse(fields: Mapping[str, Any]) -> Spec:
    """A spec of plain values, as from TOML or JSON. Raises InvalidInput naming the field."""
    try:
        return Spec.model_validate(dict(fields))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][:1]) or "schedule"
        said = first["msg"].removeprefix("Value error, ")
        # What a check of ours says names its field already.
        cause = first.get("ctx", {}).get("error")
        raise cause if isinstance(cause, InvalidInput) else InvalidInput(where, said) from None


def check(spec: Spec, now: datetime) -> None:
    """Raises InvalidInput where two dates of the year from `now` on would share an output."""
    seen: dict[str, datetime] = {}
    year = takewhile(lambda due: due < now + _A_YEAR, crons.dates(spec.cron, spec.zone, now))
    for due in islice(year, _MANY):
        spec.input_at(due)
        folder, local = spec.output_at(due), due.astimezone(spec.zone)
        if other := seen.get(folder):
            raise InvalidInput(
                "output",
                f"the runs of {other:%Y-%m-%d %H:%M%z} and {local:%Y-%m-%d %H:%M%z} would share "
                f"{folder!r}; name more of the date, or its offset (%z)",
            )
        seen[folder] = local


def latest(spec: Spec, until: datetime) -> datetime | None:
    """The last date of it, not after `until`."""
    return crons.latest(spec.cron, spec.zone, until)


def seconds(duration: str) -> float:
    """Of a `Duration`."""
    match = _DURATION.fullmatch(duration)
    assert match, "checked by the model"
    return float(match[1]) * _UNITS[match[2]]
