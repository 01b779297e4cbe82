"""One running stack for the whole folder, as `headrace up` would start it."""

import contextlib
import sys
from collections.abc import Iterator

import pytest

from headrace.errors import NotInstalled
from headrace.stack import Stack
from tests.services import unavailable


@pytest.fixture(scope="package")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """With Flower and one worker. Commands started in the folder above its own find it."""
    folder = tmp_path_factory.mktemp("acceptance")
    # `source .venv/bin/activate` is what the pages tell their reader to do.
    (folder / ".venv").symlink_to(sys.prefix)
    with contextlib.ExitStack() as undo:
        try:
            started = undo.enter_context(Stack(folder / ".headrace"))
        except NotInstalled as error:
            unavailable("the embedded stack", error)
        yield started
