"""Fixtures of the stack's tests."""

from pathlib import Path

import pytest

from headrace.errors import NotInstalled
from headrace.stack.servers import find_redis
from tests.services import unavailable


@pytest.fixture(autouse=True)
def needs_redis() -> None:
    try:
        find_redis()
    except NotInstalled as error:
        unavailable("the stack", error)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "with a space" / ".headrace"
