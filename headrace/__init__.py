"""Headrace: asynchronous batch inference over a queue, with a durable job table.

`Client` submits jobs and takes their results; `load` calls a model package in this process.
Importing this loads neither torch nor SQLAlchemy, Celery or boto3.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from headrace import errors
from headrace.client import Client
from headrace.dataset import Dataset, DatasetId, DatasetState
from headrace.job import Done, Failed, Job, JobId, JobState, ModelKey, Priority, Retry

if TYPE_CHECKING:
    from headrace.inprocess import LocalModel, load
    from headrace.registry.from_module import package_module

__all__ = [
    "Client",
    "Dataset",
    "DatasetId",
    "DatasetState",
    "Done",
    "Failed",
    "Job",
    "JobId",
    "JobState",
    "LocalModel",
    "ModelKey",
    "Priority",
    "Retry",
    "errors",
    "load",
    "package_module",
]

_LAZY = {
    "LocalModel": "headrace.inprocess",
    "load": "headrace.inprocess",
    "package_module": "headrace.registry.from_module",
}


def __getattr__(name: str) -> Any:
    """Parts that need an extra are imported when they are asked for."""
    if name not in _LAZY:
        raise AttributeError(f"module 'headrace' has no attribute {name!r}")
    import importlib

    try:
        module = importlib.import_module(_LAZY[name])
    except ImportError as error:
        raise errors.NotInstalled(f"headrace.{name}", "worker") from error
    return getattr(module, name)
