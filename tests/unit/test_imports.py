"""What `import headrace` brings, and what it leaves alone."""

import subprocess
import sys

import pytest

import headrace

PUBLIC = [
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
HEAVY = [
    "torch",
    "sqlalchemy",
    "celery",
    "kombu",
    "redis",
    "boto3",
    "alembic",
    "pydantic",
    "rich",
    "pyarrow",
]


def test_the_public_names_are_these() -> None:
    assert sorted(headrace.__all__) == PUBLIC
    for name in PUBLIC:
        assert hasattr(headrace, name)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        headrace.nothing  # noqa: B018


def test_importing_it_loads_nothing_heavy() -> None:
    code = f"import sys, headrace; print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
