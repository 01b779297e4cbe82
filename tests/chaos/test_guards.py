"""What `guards` takes out is still there."""

import importlib.util
from pathlib import Path

import pytest

from tests.chaos.guards import GUARDS, edited
from tests.chaos.scenarios import SCENARIOS


@pytest.mark.parametrize("guard", GUARDS.values(), ids=GUARDS)
def test_the_guard_can_be_taken_out(guard):
    assert guard.scenario in {scenario.name for scenario in SCENARIOS}
    for module in {edit.module for edit in guard.edits}:
        spec = importlib.util.find_spec(module)
        assert spec is not None
        source = Path(spec.origin).read_text()
        compile(edited(source, [e for e in guard.edits if e.module == module]), module, "exec")
