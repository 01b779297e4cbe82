"""Names of files that depend on a date: ``s3://in/{date-1d:%Y/%m/%d}/*.parquet``. Pure.

``date`` is when the schedule was due, by the clock of its time zone. What is added or taken away
counts in years, months, weeks and days as the calendar does (the last of the month stays the
last), and in hours and minutes as time runs. ``@`` names another time zone to show it in; without
a format it is ``%Y-%m-%d``. ``{{`` and ``}}`` stand for braces.
"""

from __future__ import annotations

import calendar
import re
from datetime import UTC, datetime, timedelta
from string import Formatter

from headrace.errors import InvalidInput
from headrace.schedules.cron import check_zone

_EXPRESSION = re.compile(r"date(?P<shifts>([+-]\d{1,4}(y|mo|w|d|h|min))*)(@(?P<zone>[\w/+-]+))?")
_SHIFT = re.compile(r"([+-]\d+)([a-z]+)")
_DIRECTIVES = frozenset("YmdHMSyjGVuaAbBzsp%")
_DEFAULT = "%Y-%m-%d"


def render(template: str, date: datetime, field: str = "template") -> str:
    """`template` for a date, which is aware and in the schedule's zone. Raises InvalidInput."""
    parts = []
    for literal, expression, form, conversion in _parsed(template, field):
        parts.append(literal)
        if expression is not None:
            if conversion:
                raise _bad(field, template)
            parts.append(_shown(expression, form or _DEFAULT, date, template, field))
    return "".join(parts)


def _parsed(template: str, field: str) -> list[tuple[str, str | None, str | None, str | None]]:
    try:
        return list(Formatter().parse(template))
    except ValueError as error:
        raise InvalidInput(field, f"{error} in {template!r}") from None


def _shown(expression: str, form: str, date: datetime, template: str, field: str) -> str:
    match = _EXPRESSION.fullmatch(expression)
    if match is None or "{" in form or not set(re.findall(r"%(.?)", form)) <= _DIRECTIVES:
        raise _bad(field, template)
    try:
        for amount, unit in _SHIFT.findall(match["shifts"]):
            date = _shifted(date, int(amount), unit)
        if match["zone"]:
            date = date.astimezone(check_zone(match["zone"], field))
        return date.strftime(form)
    except (OverflowError, ValueError) as error:
        if isinstance(error, InvalidInput):
            raise
        raise InvalidInput(field, f"{expression!r} is no date at all ({error})") from None


def _shifted(date: datetime, amount: int, unit: str) -> datetime:
    match unit:
        case "h" | "min":
            elapsed = timedelta(hours=amount) if unit == "h" else timedelta(minutes=amount)
            return (date.astimezone(UTC) + elapsed).astimezone(date.tzinfo)
        case "y" | "mo":
            months = date.year * 12 + date.month - 1 + amount * (12 if unit == "y" else 1)
            year, month = divmod(months, 12)
            day = min(date.day, calendar.monthrange(year, month + 1)[1])
            moved = date.replace(year=year, month=month + 1, day=day, fold=0)
        case _:
            moved = date.replace(fold=0) + timedelta(days=amount * (7 if unit == "w" else 1))
    # A time that the clock skips on that day is none; the same instant has another name.
    return moved.astimezone(UTC).astimezone(date.tzinfo)


def _bad(field: str, template: str) -> InvalidInput:
    return InvalidInput(
        field,
        "expected dates such as {date}, {date-1d:%Y/%m/%d}, {date-1mo:%Y-%m}, {date-2h@UTC:%H} "
        f"(y, mo, w, d, h, min), got {template!r}",
    )
