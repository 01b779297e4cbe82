"""The dataset that a run is to be. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from headrace.job import Priority


@dataclass(frozen=True, slots=True)
class Order:
    """A dataset to run. options: what else `Client.submit_dataset` takes, by its names."""

    model: str
    input: str
    output: str
    priority: Priority
    tenant: str = ""
    deadline: datetime | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
