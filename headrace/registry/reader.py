"""Reads a nested table (from TOML or JSON) field by field, with errors that name the field."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from headrace.errors import PackageError

_DIMENSION = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Table:
    """One table. Every method raises PackageError naming the file and the field.

    where: the file, then the path of the table in it. `end` complains about what nobody asked
    for, so a misspelt key never passes in silence.
    """

    def __init__(self, form: Any, where: str) -> None:
        self.where = where if ": " in where else f"{where}: "
        self._form: Mapping[str, Any] = form if isinstance(form, Mapping) else {}
        self._asked: set[str] = set()
        if not isinstance(form, Mapping):
            raise PackageError(where, f"expected a table, got {_kind(form)}")

    def has(self, key: str) -> bool:
        """Whether the key is there."""
        return key in self._form

    def text(self, key: str, pattern: re.Pattern[str] | None, default: str | None = None) -> str:
        """A string that matches `pattern` as a whole; without a default it must be there."""
        value = self._take(key, default)
        if value == default and default is not None:
            return default
        if not isinstance(value, str):
            raise self._error(key, f"expected a string, got {_kind(value)}")
        if pattern is not None and not pattern.fullmatch(value):
            raise self._error(key, f"{value!r} does not match {pattern.pattern}")
        return value

    def choice(self, key: str, choices: Sequence[str]) -> str:
        """One of `choices`."""
        value = self._take(key, None)
        if not isinstance(value, str) or value not in choices:
            raise self._error(key, f"{value!r} is none of {', '.join(choices)}")
        return value

    def texts(self, key: str, pattern: re.Pattern[str] | None = None) -> tuple[str, ...]:
        """A list of strings, empty where it is absent."""
        values = self._take(key, [])
        if not isinstance(values, list | tuple) or not all(isinstance(v, str) for v in values):
            raise self._error(key, "expected a list of strings")
        for value in values:
            if pattern is not None and not pattern.fullmatch(value):
                raise self._error(key, f"{value!r} does not match {pattern.pattern}")
        return tuple(values)

    def whole(self, key: str, default: int) -> int:
        """A whole number from 1."""
        value = self._take(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise self._error(key, f"expected a whole number from 1, got {value!r}")
        return value

    def number(
        self, key: str, default: float, *, above: float = -math.inf, least: float = -math.inf
    ) -> float:
        """A finite number, more than `above` and not less than `least`."""
        value = self._take(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self._error(key, f"expected a number, got {_kind(value)}")
        if not math.isfinite(value) or value <= above or value < least:
            bound = f"above {above:g}" if above > -math.inf else f"from {least:g}"
            raise self._error(key, f"expected a finite number {bound}, got {value}")
        return float(value)

    def truth(self, key: str, default: bool) -> bool:
        """True or false."""
        value = self._take(key, default)
        if not isinstance(value, bool):
            raise self._error(key, f"expected true or false, got {value!r}")
        return value

    def shape(self, key: str) -> tuple[int | str, ...]:
        """Dimensions of one record: whole numbers, or names of those that vary."""
        values = self._take(key, [])
        if not isinstance(values, list | tuple):
            raise self._error(key, f"expected a list of dimensions, got {_kind(values)}")
        for value in values:
            number = isinstance(value, int) and not isinstance(value, bool) and value >= 0
            if not number and not (isinstance(value, str) and _DIMENSION.fullmatch(value)):
                raise self._error(key, f"{value!r} is neither a whole number nor a name")
        return tuple(values)

    def table(self, key: str) -> Table:
        """A table below, empty where it is absent."""
        return Table(self._take(key, {}), self._place(key))

    def tables(self, key: str) -> list[Table]:
        """A list of tables below, at least one."""
        values = self._take(key, None)
        if not isinstance(values, list | tuple) or not values:
            raise self._error(key, "expected at least one table")
        return [Table(value, f"{self._place(key)}[{i}]") for i, value in enumerate(values)]

    def end(self) -> None:
        """Raises where the table holds a key that was never asked for."""
        for key in self._form:
            if key not in self._asked:
                raise self._error(key, f"unknown key; expected {', '.join(sorted(self._asked))}")

    def _take(self, key: str, default: Any) -> Any:
        self._asked.add(key)
        if key not in self._form and default is None:
            raise self._error(key, "missing")
        return self._form.get(key, default)

    def _place(self, key: str) -> str:
        dot = "" if self.where.endswith(": ") else "."
        return f"{self.where}{dot}{key}"

    def _error(self, key: str, problem: str) -> PackageError:
        return PackageError(self._place(key), problem)


def _kind(value: Any) -> str:
    return type(value).__name__
